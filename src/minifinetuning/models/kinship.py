"""Whether two model folders hold the same model with other weights."""

from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedTokenizerBase

from minifinetuning.errors import InputError
from minifinetuning.models.loading import LOADING_ERRORS, load_tokenizer

__all__ = ["own_tokenizer", "require_same_model", "require_same_vocabulary"]

_WITHOUT_EFFECT = (
    *("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"),
    *("use_cache", "return_dict", "output_attentions", "output_hidden_states"),
    *("id2label", "label2id", "problem_type", "initializer_range", "pretraining_tp"),
)
"""Settings that may differ while equal weights give equal logits."""


def require_same_model(reference: Path, tuned: Path, *, trust_remote_code: bool = False) -> None:
    """Raise InputError where the two configurations would make different models of equal weights.

    A quantised model is refused too: its tensors are not its weights.
    """
    before = _settings(reference, trust_remote_code)
    after = _settings(tuned, trust_remote_code)
    for name in sorted(before.keys() | after.keys(), key=_most_telling_first):
        if before.get(name) != after.get(name):
            raise InputError(
                f"{tuned} is not {reference} with other weights: {name} is {after.get(name)} there "
                f"and {before.get(name)} here; give the model that it was tuned from"
            )


def require_same_vocabulary(
    reference: Path, tuned: Path, *, trust_remote_code: bool = False
) -> None:
    """Raise InputError where the two tokenizers know other tokens, or number them differently.

    A tuned folder without a tokenizer is taken for one that did not change it.
    """
    before = load_tokenizer(str(reference), trust_remote_code=trust_remote_code)
    after = own_tokenizer(str(tuned), trust_remote_code=trust_remote_code)
    if after is not None and before.get_vocab() != after.get_vocab():
        raise InputError(
            f"the tokenizers of {tuned} and {reference} have different vocabularies: weights can "
            "only be blended where every token means the same"
        )


def own_tokenizer(
    name_or_path: str, *, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a model, of an adapter's base where it brings none; None without one."""
    try:
        return load_tokenizer(name_or_path, trust_remote_code=trust_remote_code)
    except InputError:
        return None


def _settings(folder: Path, trust_remote_code: bool) -> dict[str, Any]:
    """What the configuration says of the model, without tokens that only generation needs."""
    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    except LOADING_ERRORS as error:
        raise InputError(
            f"{folder} has no config.json that can be read: give a folder that save_pretrained "
            "wrote"
        ) from error
    settings: dict[str, Any] = config.to_dict()
    if settings.get("quantization_config"):
        raise InputError(
            f"{folder} is quantised, so its tensors are not its weights: save it in bfloat16 or "
            "float32 first"
        )
    return {
        name: value
        for name, value in settings.items()
        if name not in _WITHOUT_EFFECT and not name.endswith(("_token_id", "dropout", "pdrop"))
    }


def _most_telling_first(name: str) -> tuple[bool, bool, str]:
    return name != "model_type", name != "vocab_size", name
