"""A name for what a tokenizer does, whatever it is called and wherever it lies."""

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
    for text in _PROBES:
        if _ordinary(first, text) != _ordinary(second, text):
            return f"they split {text!r} differently"
    return None


_PROBES = (
    *("The quick brown fox's 3,141.59 dollars", "  two spaces\n\n\tand a tab \r\n", "ÀÉÎõü ﬁ Ⅷ"),
    *("don't WON'T I'll", "https://a.b/c?d=e_f&g=1234567890", "def f(x):\n    return x ** 2"),
    *("中文 日本語の文 한국어 ไทย العربية हिन्दी", "e\u0301 \u00a0 \u200b 🙂👩‍👩‍👧", "x" * 40, " "),
)
"""Texts in which the usual rules of tokenizers differ: case, marks, spaces, digits, scripts."""


def _ordinary(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    # As documents are read: what spells a special token is text.
    token_ids: list[int] = tokenizer(
        text, add_special_tokens=False, split_special_tokens=tokenizer.is_fast
    )["input_ids"]
    return token_ids


def _around_text(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """A text as documents are read, with what the tokenizer puts in front of it and behind."""
    token_ids = tokenizer("a", split_special_tokens=tokenizer.is_fast)["input_ids"]
    # What closes a document is put there by whoever reads it, where the tokenizer does not.
    if token_ids and token_ids[-1] == tokenizer.eos_token_id:
        token_ids = token_ids[:-1]
    return [str(token) for token in tokenizer.convert_ids_to_tokens(token_ids)]


def _added(tokenizer: "PreTrainedTokenizerBase") -> set[str]:
    return set(tokenizer.get_added_vocab())
