"""What transformers 4 and converters need in the JSON files that transformers 5 writes."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from minifinetuning.files import write_atomically

__all__ = ["rope_for_transformers_4", "write_older_config", "write_older_tokenizer_config"]

_NEOX = ("gpt_neox", "gpt_neox_japanese")
# These call the kind of scaling "type", and refuse a dictionary with anything beside its factors.
_TERSE_SCALING = {
    **dict.fromkeys(("phi3", "phi4_multimodal"), ("short_factor", "long_factor")),
    **dict.fromkeys(("olmo", "olmo2", "hunyuan_v1_dense", "hunyuan_v1_moe"), ("factor", "alpha")),
}
_OPENING_BY_DEFAULT = ("LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer", "CohereTokenizer")
"""Tokenizers to which transformers 4 gives a BOS before each text where nothing else is said, and 5
does what tokenizer.json says."""

_OWN_KEYS = ("rope_theta", "partial_rotary_factor")
"""What transformers 5 moved into `rope_parameters` and 4 has beside `rope_scaling`."""


def write_older_config(folder: Path, config: PreTrainedConfig) -> None:
    """Add to `folder`/config.json the rotary settings by the names that transformers 4 reads.

    Transformers 5 writes `rope_parameters` alone, of which 4 takes no notice: it computes with its
    default base instead. Whatever would make transformers 5 read another model is left out again.
    """
    path = folder / "config.json"
    if not path.is_file():
        return
    written = path.read_text(encoding="utf-8")
    settings = json.loads(written)
    extended = _with_older_names(settings)
    if extended == settings:
        return
    before = type(config).from_pretrained(folder).to_dict()
    write_atomically(path, _sorted(extended))
    try:
        reads_the_same = _holds(type(config).from_pretrained(folder).to_dict(), before)
    except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError):
        reads_the_same = False
    if not reads_the_same:
        write_atomically(path, written)


def rope_for_transformers_4(settings: dict[str, Any]) -> dict[str, Any]:
    """The rotary settings of one config.json as transformers 4 names them; empty without any.

    `rope_theta` and `rope_scaling` (None where nothing is scaled), `partial_rotary_factor` where
    only a part of each head is rotated. Gemma 3 and its like have settings for each kind of layer:
    those of full attention stand in these, the base of sliding attention in `rope_local_base_freq`.
    """
    rope = settings.get("rope_parameters")
    kind = settings.get("model_type", "")
    if not isinstance(rope, dict) or not rope:
        return {}
    if isinstance(rope.get("full_attention"), dict):
        full, sliding = rope["full_attention"], rope.get("sliding_attention") or {}
        older = _flat(full, kind)
        if kind.startswith("gemma3") and "rope_theta" in sliding:
            older["rope_local_base_freq"] = sliding["rope_theta"]
        elif kind.startswith("modernbert"):
            return {
                "global_rope_theta": full.get("rope_theta"),
                "local_rope_theta": sliding.get("rope_theta"),
            }
        return older
    return {} if any(isinstance(value, dict) for value in rope.values()) else _flat(rope, kind)


def _flat(rope: dict[str, Any], kind: str) -> dict[str, Any]:
    if rope.get("rope_theta") is None:
        return {}
    theta, share = rope["rope_theta"], rope.get("partial_rotary_factor")
    older: dict[str, Any] = {"rope_theta": theta, "rope_scaling": _scaling(rope, kind)}
    if share is not None:
        older["partial_rotary_factor"] = share
    if kind in _NEOX:
        older = {"rotary_emb_base": theta, "rope_scaling": older["rope_scaling"]}
        if share is not None:
            older["rotary_pct"] = share
    return older


def _scaling(rope: dict[str, Any], kind: str) -> dict[str, Any] | None:
    name = rope.get("rope_type", "default")
    if name == "default":
        return None
    if kind in _TERSE_SCALING:
        factors = {key: rope[key] for key in _TERSE_SCALING[kind] if key in rope}
        return {"type": name, **factors}
    return {key: value for key, value in rope.items() if key not in _OWN_KEYS}


def _holds(found: Any, expected: Any) -> bool:
    """Whether everything of `expected` is in `found`, which may have older names beside it."""
    if not isinstance(expected, dict) or not isinstance(found, dict):
        return bool(found == expected)
    return all(name in found and _holds(found[name], expected[name]) for name in expected)


def _with_older_names(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings and those of the models inside (`text_config`), nothing of them changed."""
    inner = {
        name: _with_older_names(value)
        for name, value in settings.items()
        if name.endswith("_config") and isinstance(value, dict) and "model_type" in value
    }
    return {**rope_for_transformers_4(settings), **settings, **inner}


def write_older_tokenizer_config(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write in `folder`/tokenizer_config.json what every version reads, and nothing of this place.

    `TokenizersBackend` is what transformers 5 calls the class that has been PreTrainedTokenizerFast
    for years, and only 5 takes further special tokens as a list under `extra_special_tokens`.
    """
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return
    settings = json.loads(path.read_text(encoding="utf-8"))
    for name in ("is_local", "local_files_only"):
        settings.pop(name, None)
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        # Version 4 makes token_type_ids too where nothing is said, which most models refuse.
        settings.setdefault("model_input_names", list(tokenizer.model_input_names))
    if settings.get("tokenizer_class", "").removesuffix("Fast") in _OPENING_BY_DEFAULT:
        opens, closes = _frame(tokenizer)
        if (opens, closes) != (True, False):
            settings |= {"add_bos_token": opens, "add_eos_token": closes}
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    write_atomically(path, _sorted(settings))


def _frame(tokenizer: PreTrainedTokenizerBase) -> tuple[bool, bool]:
    """Whether the tokenizer puts BOS before a text, and EOS after it."""
    ordinary, framed = (
        tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True)
    )
    added = len(framed) > len(ordinary)
    return (
        added and framed[0] == tokenizer.bos_token_id,
        added and framed[-1] == tokenizer.eos_token_id,
    )


def _sorted(settings: dict[str, Any]) -> str:
    """As transformers writes its JSON."""
    return json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False)
