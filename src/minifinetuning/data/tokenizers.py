"""Encode text as nothing but text, and tell whether two tokenizers do the same."""

import hashlib
import json
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
        for text, token_ids in zip(texts, _text_ids(self.tokenizer, list(texts)), strict=True):
            broken: list[str] = []
            if not self.control.isdisjoint(token_ids):
                token_ids = self._broken(text, broken)
            unknown = 0 if self.unknown is None else token_ids.count(self.unknown)
            whole = [*self.opening, *token_ids, *self.closing]
            found.append(PlainIds(whole, unknown, tuple(broken)))
        return found

    def _broken(self, text: str, broken: list[str]) -> list[int]:
        """The ids of a text, cut within each string that would become a control token."""
        (ids,) = _text_ids(self.tokenizer, [text])
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
        if not self.tokenizer.is_fast:
            return None
        # Behind the very letter that it was cut from, the string may be whole again.
        for letter in (before, ".", "a"):
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


def closing_token_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The EOS id that closes each document; raises InputError where the tokenizer has none."""
    eos = tokenizer.eos_token_id
    if eos is None:
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path or type(tokenizer).__name__} has no EOS token: "
            'set "eos_token" in its tokenizer_config.json, or tokenizer.eos_token = ...'
        )
    return int(eos)


def opening_token_ids(tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    """The control tokens that may stand in front of a document, and never stand for text."""
    return control_ids(tokenizer) - {tokenizer.eos_token_id, tokenizer.unk_token_id}


def _text_ids(tokenizer: "PreTrainedTokenizerBase", texts: list[str]) -> list[list[int]]:
    """The ids of each text with nothing around it, as text where the tokenizer can be told so."""
    # verbose=False: no warning of texts longer than the window, since packing cuts them.
    # Not every tokenizer in Python accepts split_special_tokens.
    ids: list[list[int]] = tokenizer(
        texts,
        add_special_tokens=False,
        padding=False,
        truncation=False,
        split_special_tokens=tokenizer.is_fast,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]
    return ids


def tokenizer_identity(tokenizer: "PreTrainedTokenizerBase") -> str:
    """SHA-256 of all that decides how the tokenizer turns a document into token ids.

    Of a fast tokenizer that is the content of its tokenizer.json; of another its class, vocabulary
    and settings. The special tokens that close, open and pad belong to both.
    """
    content = {
        "class": f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}",
        "special": [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id],
        "rules": _fast_rules(tokenizer) if tokenizer.is_fast else _slow_rules(tokenizer),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _fast_rules(tokenizer: Any) -> dict[str, Any]:
    rules: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    # Every call sets these two, and documents are neither cut nor padded.
    return {name: rule for name, rule in rules.items() if name not in ("truncation", "padding")}


def _slow_rules(tokenizer: Any) -> dict[str, Any]:
    settings = {name: repr(value) for name, value in tokenizer.init_kwargs.items()}
    return {"vocabulary": tokenizer.get_vocab(), "settings": settings}


def tokenizer_difference(
    first: "PreTrainedTokenizerBase", second: "PreTrainedTokenizerBase"
) -> str | None:
    """What `second` makes of text otherwise than `first`, in a few words; None where nothing is.

    Names, paddings and which token closes a document do not count, nor does what either was saved
    by; nor tokens that one has more, as long as both number the rest alike, split text into it
    alike, and put the same control tokens around it.
    """
    theirs, ours = first.get_vocab(), second.get_vocab()
    moved = sorted(token for token in theirs.keys() & ours.keys() if theirs[token] != ours[token])
    if moved:
        token = min(moved, key=theirs.__getitem__)
        return f"{token!r} is token {theirs[token]} of one and {ours[token]} of the other"
    only = sorted((theirs.keys() ^ ours.keys()) - _added(first) - _added(second))
    if only:
        return f"{len(only)} tokens are known to one alone, among them {only[0]!r}"
    around, ours_around = _around_text(first), _around_text(second)
    if around != ours_around:
        return f"one makes {' '.join(around)} of 'a', and the other {' '.join(ours_around)}"
    if first.is_fast and second.is_fast and _fast_rules(first) == _fast_rules(second):
        return None
    both = zip(_text_ids(first, _PROBES), _text_ids(second, _PROBES), strict=True)
    for text, (one, other) in zip(_PROBES, both, strict=True):
        if one != other:
            return f"they split {text!r} differently"
    return None


_PROBES = [
    "The quick brown fox's 3,141.59 dollars",
    "  two spaces\n\n\tand a tab \r\n",
    "ÀÉÎõü ﬁ Ⅷ",
    "don't WON'T I'll",
    "https://a.b/c?d=e_f&g=1234567890",
    "def f(x):\n    return x ** 2",
    "中文 日本語の文 한국어 ไทย العربية हिन्दी",
    "e\u0301 \u00a0 \u200b 🙂👩‍👩‍👧",
    "x" * 40,
    " ",
]
"""Texts in which the usual rules of tokenizers differ: case, marks, spaces, digits, scripts."""


def _around_text(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """A text as documents are read, with what the tokenizer puts in front of it and behind."""
    token_ids = tokenizer("a", split_special_tokens=tokenizer.is_fast)["input_ids"]
    # What closes a document is put there by whoever reads it, where the tokenizer does not.
    if token_ids and token_ids[-1] == tokenizer.eos_token_id:
        token_ids = token_ids[:-1]
    return [str(token) for token in tokenizer.convert_ids_to_tokens(token_ids)]


def _added(tokenizer: "PreTrainedTokenizerBase") -> set[str]:
    return set(tokenizer.get_added_vocab())
