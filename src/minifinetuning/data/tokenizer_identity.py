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
