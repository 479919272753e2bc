"""Text to token ids of which none is a control token because the text spells one."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from minifinetuning.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PlainIds:
    """The ids of a text; `unknown` of them are the unknown token; `broken` names what was cut."""

    token_ids: list[int]
    unknown: int
    broken: tuple[str, ...]


class PlainText:
    """Encodes text as nothing but text, between what the tokenizer puts around each document.

    A manual may say `</s>`. Most tokenizers can be told to read that as text; where the vocabulary
    itself holds the piece (Unigram, whole words) or nothing can be told (tokenizers in Python), the
    string is broken in two, each of which is encoded by itself, the second without the space that
    the tokenizer may put before a text:

        ids("a tag </s> in") = ids("a tag </") + ids("s> in")
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.tokenizer = tokenizer
        self.unknown: int | None = tokenizer.unk_token_id
        self.control = control_ids(tokenizer)
        framed = [int(token) for token in tokenizer("a", verbose=False)["input_ids"]]
        opening = next((n for n, one in enumerate(framed) if one not in self.control), 0)
        closing = next((n for n, one in enumerate(framed[::-1]) if one not in self.control), 0)
        self.opening, self.closing = framed[:opening], framed[len(framed) - closing :]

    def encoded(self, texts: Sequence[str]) -> list[PlainIds]:
        """The ids of each text. Raises InputError where one spells what cannot be broken."""
        found = []
        for text, token_ids in zip(texts, self._ids(list(texts)), strict=True):
            broken: list[str] = []
            if not self.control.isdisjoint(token_ids):
                token_ids = self._broken(text, broken)
            unknown = 0 if self.unknown is None else token_ids.count(self.unknown)
            whole = [*self.opening, *token_ids, *self.closing]
            found.append(PlainIds(whole, unknown, tuple(broken)))
        return found

    def _ids(self, texts: list[str]) -> list[list[int]]:
        # verbose=False: no warning of texts longer than the window, since packing cuts them.
        # Not every tokenizer in Python accepts split_special_tokens.
        ids: list[list[int]] = self.tokenizer(
            texts,
            add_special_tokens=False,
            padding=False,
            truncation=False,
            split_special_tokens=self.tokenizer.is_fast,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
        return ids

    def _broken(self, text: str, broken: list[str]) -> list[int]:
        """The ids of a text, cut within each string that would become a control token."""
        (ids,) = self._ids([text])
        if self.control.isdisjoint(ids):
            return ids
        spans = self._spans(text)
        if not spans:
            # An unknown word, where the unknown token closes documents too.
            if self.control.intersection(ids) == {self.unknown}:
                return ids
            spelt = self._name(next(one for one in ids if one in self.control))
            raise InputError(
                f"a text spells {spelt!r}, which this tokenizer cannot encode as text: "
                "take it out of the text, or write it in another way"
            )
        broken += [text[slice(*span)].strip() for span in spans]
        cuts = [0, *(sum(span) // 2 for span in spans), len(text)]
        ids = self._broken(text[: cuts[1]], broken)
        for start, end in pairwise(cuts[1:]):
            ids += self._continued(text[start - 1], text[start:end]) or self._broken(
                text[start:end], broken
            )
        return ids

    def _continued(self, before: str, text: str) -> list[int] | None:
        """The ids of the text as they are behind a letter, where no space is put before it.

        None where it has no ids of its own there, or one of them is a control token.
        """
        # Behind the very letter that it was cut from, the string may be whole again.
        for letter in (before, ".", "a") if self.tokenizer.is_fast else ():
            found = self._with_offsets(letter + text)
            ids = [token for token, (_, end) in found if end > 1]
            is_apart = min((start for _, (start, end) in found if end > 1), default=0) == 1
            if is_apart and self.control.isdisjoint(ids):
                return ids
        return None

    def _with_offsets(self, text: str) -> list[tuple[int, tuple[int, int]]]:
        """Each id with where in the text its letters begin and end."""
        found = self.tokenizer(
            text,
            add_special_tokens=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
            verbose=False,
        )
        return [*zip(found["input_ids"], found["offset_mapping"], strict=True)]

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """Where each string that can be cut and becomes a control token begins and ends."""
        if self.tokenizer.is_fast:
            return [
                (start, end)
                for token, (start, end) in self._with_offsets(text)
                if token in self.control and end - start > 1 and token != self.unknown
            ]
        names = sorted({self._name(token) for token in self.control}, key=len, reverse=True)
        spelt = "|".join(re.escape(name) for name in names if len(name) > 1)
        # Not by casefold(), in which other letters of the text may become two.
        found = re.finditer(spelt, text, re.IGNORECASE) if spelt else ()
        return [one.span() for one in found]

    def _name(self, token: int) -> str:
        return str(self.tokenizer.convert_ids_to_tokens(token))


def control_ids(tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    """The ids of tokens that say something to the model and stand for no text.

    The unknown token is none of them, unless it also opens, closes or pads.
    """
    added: dict[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
    special = {*tokenizer.all_special_ids, *(n for n, token in added.items() if token.special)}
    special.discard(tokenizer.unk_token_id)
    framing = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return frozenset(int(token) for token in {*special, *framing} if token is not None)
