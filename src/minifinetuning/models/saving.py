"""A model and its tokenizer to a folder that this version reads, and other programs too."""

import logging
import re
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from minifinetuning.files import write_atomically
from minifinetuning.models.causal import causal_model
from minifinetuning.models.compatibility import write_older_config, write_older_tokenizer_config

__all__ = ["repair_generation_config", "save_model", "save_tokenizer"]

logger = logging.getLogger(__name__)

_REFUSALS = (ValueError, TypeError, AttributeError)
"""What strict validation raises, for settings that contradict each other and for wrong types."""


def save_model(
    model: PreTrainedModel | PeftModel,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> None:
    """Save weights, configuration and tokenizer; of a PeftModel the adapter alone.

    What transformers would refuse to save of the generation settings is repaired with a warning,
    and its own names for settings have those of transformers 4 beside them. An adapter names the
    folder of its base model by an absolute path. `dtype` is what the floating weights of a whole
    model are written in, whatever they are held in. `options` are those of `save_pretrained`.
    """
    repair_generation_config(causal_model(model))
    if isinstance(model, PeftModel):
        _save_adapter(model, folder, options)
    else:
        _save_whole(model, folder, dtype, options)
    if tokenizer is not None and options.get("is_main_process", True):
        save_tokenizer(tokenizer, folder)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save the tokenizer so that transformers 4 and converters read it as well."""
    tokenizer.save_pretrained(folder)
    write_older_tokenizer_config(folder, tokenizer)


def repair_generation_config(model: PreTrainedModel) -> None:
    """Unset the generation settings for which transformers would refuse to save the model.

    Published models have such: `do_sample: false` beside a temperature. Of those that merely have
    no effect each is unset; where that does not do, only the token ids are kept.
    """
    config = getattr(model, "generation_config", None)
    if not isinstance(config, GenerationConfig):
        return
    refusal = _refusal(config)
    if refusal is None:
        return
    # One line for each setting without effect: - `temperature`: `do_sample` is not set to ...
    names = re.findall(r"^- `(\w+)`:", refusal, flags=re.MULTILINE)
    for name in names:
        setattr(config, name, None)
    if _refusal(config) is None:
        logger.warning(
            "generation_config: %s had no effect as set there and cannot be saved, so it was unset",
            ", ".join(names),
        )
        return
    kept = {name: value for name, value in config.to_dict().items() if name.endswith("_token_id")}
    model.generation_config = GenerationConfig(**kept)
    logger.warning(
        "generation_config cannot be saved as it is (%s): only its token ids were kept",
        " ".join(refusal.split())[:200],
    )


def _refusal(config: GenerationConfig) -> str | None:
    try:
        config.validate(strict=True)
    except _REFUSALS as error:
        return str(error)
    return None


def _save_adapter(model: PeftModel, folder: Path, options: dict[str, Any]) -> None:
    _name_base(model)
    card = folder / "README.md"
    before = card.read_text(encoding="utf-8") if card.is_file() else None
    model.save_pretrained(str(folder), **options)
    # PEFT writes a card of its own, which names the folder that the base model lies in here.
    if before is not None:
        write_atomically(card, before)
    elif options.get("is_main_process", True):
        card.unlink(missing_ok=True)


def _name_base(model: PeftModel) -> None:
    """An adapter is loaded from anywhere: a hub id stays, a folder gets its absolute path."""
    for config in model.peft_config.values():
        name = config.base_model_name_or_path or causal_model(model).name_or_path or ""
        path = Path(name).expanduser()
        config.base_model_name_or_path = str(path.resolve()) if name and path.exists() else name


def _save_whole(
    model: PreTrainedModel, folder: Path, dtype: torch.dtype | None, options: dict[str, Any]
) -> None:
    held = model.dtype
    written = held if dtype is None else dtype
    if written != held:
        weights = options.get("state_dict") or model.state_dict()
        options = {**options, "state_dict": _converted(weights, written)}
    model.save_pretrained(str(folder), **options)
    if not options.get("is_main_process", True):
        return
    if written != held:
        path = folder / "config.json"
        before, after = (f'"dtype": "{_name(each)}"' for each in (held, written))
        write_atomically(path, path.read_text(encoding="utf-8").replace(before, after))
    write_older_config(folder, model.config)


def _converted(weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The floating weights in `dtype`; what shares memory under two names still does."""
    converted: dict[tuple[Any, ...], Tensor] = {}
    found = {}
    for name, tensor in weights.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if place not in converted:
            converted[place] = tensor.to(dtype) if tensor.is_floating_point() else tensor
        found[name] = converted[place]
    return found


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
