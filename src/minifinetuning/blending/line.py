"""Between two models: theta_A + c (theta_B - theta_A), set in place, one tensor after another.

Wortsman et al., "Robust fine-tuning of zero-shot models" (WiSE-FT, arXiv 2109.01903), equation 1.
"""

from pathlib import Path
from typing import Protocol

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from minifinetuning.errors import InputError
from minifinetuning.models.causal import causal_model
from minifinetuning.models.kinship import require_same_model, require_same_vocabulary
from minifinetuning.models.loading import HELD_IN, is_adapter, load_model
from minifinetuning.models.scalable_adapter import ScalableAdapter
from minifinetuning.models.stored_weights import StoredWeights, model_folder, stored_names

__all__ = ["AdapterBlend", "Blend", "WeightBlend", "interpolated", "open_blend"]


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


def open_blend(
    reference: str, tuned: str, *, dtype: str | None = None, trust_remote_code: bool = False
) -> Blend:
    """The line from `reference` to `tuned`, folders of safetensors or hub ids.

    `tuned` may hold a LoRA or IA3 adapter of the reference: then the adapter is scaled. `dtype` is
    what weights are held and rounded to; where nothing is said they are held in float32, and
    rounded to the wider dtype of the two, and "auto" is that for both. No weights are read yet.
    Raises InputError where the files say that the two cannot be blended.
    """
    start, end = model_folder(reference), model_folder(tuned)
    if is_adapter(str(start)):
        raise InputError(
            f"{reference} holds an adapter, not a whole model: merge it into its base model first "
            "(load_model(...).save_pretrained(folder) in Python)"
        )
    require_same_vocabulary(start, end, trust_remote_code=trust_remote_code)
    if is_adapter(str(end)):
        adapter = ScalableAdapter(end)
        adapter.require_base(reference, start)
        return AdapterBlend(start, adapter, dtype, trust_remote_code=trust_remote_code)
    require_same_model(start, end, trust_remote_code=trust_remote_code)
    return WeightBlend(start, end, dtype, trust_remote_code=trust_remote_code)


def interpolated(reference: Tensor, tuned: Tensor, coefficient: float) -> Tensor:
    """reference + coefficient * (tuned - reference), in float32; at 0 and at 1 the very tensor."""
    if coefficient in (0, 1):
        return tuned if coefficient else reference
    difference = tuned.float() - reference.float()
    return difference.mul_(coefficient).add_(reference)


class WeightBlend:
    """Two whole checkpoints of one architecture, in safetensors of any of the usual dtypes.

    Beside the model in memory there is one pair of tensors at a time, and their difference.
    """

    def __init__(
        self,
        reference: Path,
        tuned: Path,
        dtype: str | None = None,
        *,
        trust_remote_code: bool = False,
    ) -> None:
        self._reference, self._tuned = StoredWeights(reference), StoredWeights(tuned)
        self._held, self.dtype = _held_and_written(
            dtype, torch.promote_types(self._reference.dtype, self._tuned.dtype)
        )
        self._trust_remote_code = trust_remote_code

    def load(self) -> PreTrainedModel:
        model = load_model(
            str(self._reference.folder),
            dtype=self._held,
            trust_remote_code=self._trust_remote_code,
        )
        for place, reference_name, tuned_name in self._pairs(model):
            stored = self._reference[reference_name]
            self._require_readable(reference_name, stored, place)
            if not place.is_floating_point() and not torch.equal(stored, self._tuned[tuned_name]):
                raise InputError(
                    f"{self._tuned.folder} and {self._reference.folder} differ in {tuned_name}, "
                    "which holds whole numbers: nothing lies between them"
                )
        return model

    def apply(self, model: PreTrainedModel | PeftModel, coefficient: float) -> None:
        with torch.no_grad():
            for place, reference_name, tuned_name in self._pairs(causal_model(model)):
                reference = self._reference[reference_name].to(place.device)
                tuned = self._tuned[tuned_name].to(place.device)
                value = interpolated(reference, tuned, coefficient)
                # Measured as it would be written: a budget is kept by what lies in the folder.
                place.copy_(value.to(self.dtype) if place.is_floating_point() else value)

    def _pairs(self, model: PreTrainedModel) -> list[tuple[Tensor, str, str]]:
        """Each weight of the model with its names in the two checkpoints."""
        places = model.state_dict(keep_vars=True)
        reference = stored_names(model, self._reference)
        tuned = stored_names(model, self._tuned)
        return [(places[name], key, tuned[name]) for name, key in reference.items()]

    def _require_readable(self, name: str, stored: Tensor, place: Tensor) -> None:
        """A weight that loading changed on its way is not what lies in the files."""
        if not torch.equal(stored.to(place.dtype), place):
            raise InputError(
                f"{name} in {self._reference.folder} is not what transformers makes of it on "
                "loading: weights of this architecture cannot be blended from their files, only "
                "those of an adapter on it"
            )


class AdapterBlend:
    """A LoRA or IA3 adapter at c times its effect, on its base model.

    That is the interpolation of the merged weights, exactly, since these are linear in lora_B and
    in IA3's vectors: W + c s B A = W + c (W + s B A - W), and so for (1 + c (l - 1)) W.
    """

    def __init__(
        self,
        base: Path,
        adapter: ScalableAdapter,
        dtype: str | None = None,
        *,
        trust_remote_code: bool = False,
    ) -> None:
        self._base = base
        self._adapter = adapter
        self._held, self.dtype = _held_and_written(
            dtype, torch.promote_types(StoredWeights(base).dtype, adapter.weights.dtype)
        )
        self._trust_remote_code = trust_remote_code

    def load(self) -> PeftModel:
        base = load_model(
            str(self._base), dtype=self._held, trust_remote_code=self._trust_remote_code
        )
        model = self._adapter.on(base)
        self.apply(model, 0.0)
        return model

    def apply(self, model: PreTrainedModel | PeftModel, coefficient: float) -> None:
        with torch.no_grad():
            for name, place in self._adapter.places(model).items():
                tuned = self._adapter.weights[name].to(place.device)
                neutral = self._adapter.neutral(name, tuned)
                place.copy_(interpolated(neutral, tuned, coefficient))


def _held_and_written(dtype: str | None, wider: torch.dtype) -> tuple[str, torch.dtype]:
    """What weights are held in, as `load_model` calls it, and rounded to."""
    if dtype is None:
        return HELD_IN, wider
    written = wider if dtype == "auto" else getattr(torch, dtype)
    return str(written).removeprefix("torch."), written
