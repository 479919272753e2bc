"""The line between a reference and what was tuned from it, along which one model is moved.

Wortsman et al., "Robust fine-tuning of zero-shot models" (WiSE-FT, arXiv 2109.01903), equation 1.
"""

from dataclasses import replace
from typing import Protocol

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from minifinetuning.blending.adapter_line import AdapterBlend, ScalableAdapter
from minifinetuning.blending.weight_line import (
    WeightBlend,
    require_same_model,
    require_same_vocabulary,
)
from minifinetuning.errors import InputError
from minifinetuning.models.config import ModelConfig
from minifinetuning.models.loading import is_adapter
from minifinetuning.models.weights import model_folder

__all__ = ["Blend", "open_blend"]


class Blend(Protocol):
    """A line between a reference and a tuned model, along which one model in memory is moved."""

    dtype: torch.dtype
    """What the weights of a whole model are rounded to at each c, and are to be written in."""

    def load(self) -> PreTrainedModel | PeftModel:
        """The only model that is ever built, at c = 0, held as a training run would hold it.

        Raises InputError where the two cannot be blended.
        """
        ...

    def apply(self, model: PreTrainedModel | PeftModel, coefficient: float) -> None:
        """Move the weights of `model` to the coefficient c, wherever on the line they are."""
        ...


def open_blend(reference: str | ModelConfig, tuned: str) -> Blend:
    """The line from `reference` to `tuned`, folders of safetensors or hub ids.

    `tuned` may hold a LoRA or IA3 adapter of the reference: then the adapter is scaled. The dtype
    of `reference` is what weights are held and rounded to; where it says nothing they are held in
    float32, and rounded to the wider dtype of the two, and "auto" is that for both. No weights are
    read yet. Raises InputError where the files say that the two cannot be blended.
    """
    reference = ModelConfig(reference) if isinstance(reference, str) else reference
    start, end = model_folder(reference.model), model_folder(tuned)
    if is_adapter(str(start)):
        raise InputError(
            f"{reference.model} holds an adapter, not a whole model: merge it into its base model "
            "first (load_model(...).save_pretrained(folder) in Python)"
        )
    before, after = replace(reference, model=str(start)), replace(reference, model=str(end))
    require_same_vocabulary(before, after)
    if is_adapter(str(end)):
        adapter = ScalableAdapter(end)
        adapter.require_base(reference.model, start)
        return AdapterBlend(before, adapter)
    require_same_model(before, after)
    return WeightBlend(before, after)
