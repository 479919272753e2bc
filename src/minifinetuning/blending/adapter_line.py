"""An adapter at c times its effect: the line from a base model to the adapter merged into it."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from minifinetuning.blending.weight_line import held_and_written, interpolated
from minifinetuning.errors import InputError
from minifinetuning.models.config import ModelConfig
from minifinetuning.models.loading import load_model
from minifinetuning.models.weights import StoredWeights

__all__ = ["AdapterBlend", "ScalableAdapter"]

_TENSORS = {
    "LORA": re.compile(r"\.(lora_A\.weight|lora_B\.(weight|bias)|lora_embedding_[AB])$"),
    "IA3": re.compile(r"\.ia3_l$"),
}

_WITHOUT_EFFECT = {
    "peft_type",
    "task_type",
    "auto_mapping",
    "peft_version",
    "inference_mode",
    "revision",
    "base_model_name_or_path",
    "target_modules",
    "exclude_modules",
    "feedforward_modules",
    "layers_to_transform",
    "layers_pattern",
    "fan_in_fan_out",
    "init_ia3_weights",
    "r",
    "rank_pattern",
    "lora_alpha",
    "alpha_pattern",
    "use_rslora",
    "lora_dropout",
    "lora_bias",
    "megatron_core",
    "qalora_group_size",
}
"""Settings that leave the merged weights linear in lora_B, or in IA3's vectors."""

_INITIALISATIONS = (True, False, "gaussian", "orthogonal")
"""Those of LoRA that leave the base model's weights as they are."""


class ScalableAdapter:
    """A LoRA or IA3 adapter in a folder.

    Raises InputError for every other kind, for settings with which the merged weights are not
    linear in the adapter (DoRA, trained biases, whole modules, rewritten base weights), and where
    the file holds other tensors than the adapter's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._settings = self._read_settings()
        self._require_linear()
        self.weights = StoredWeights(folder, "adapter_model")
        kind = self._settings["peft_type"]
        if other := [name for name in self.weights if not _TENSORS[kind].search(name)]:
            raise self._not_scalable(f"holds {other[0]} beside its {kind} tensors")

    def require_base(self, name: str, folder: Path) -> None:
        """Raise InputError where the adapter's base model is not the one at `folder`, or `name`."""
        base = self._settings.get("base_model_name_or_path")
        if base == name:
            return
        path = Path(str(base)).expanduser()
        if not path.is_dir() or path.resolve() != folder.resolve():
            raise InputError(
                f"the adapter in {self._folder} was trained on {base}, not on {name}: give that "
                "as the reference, or correct base_model_name_or_path in its adapter_config.json"
            )

    def on(self, base: PreTrainedModel) -> PeftModel:
        """The adapter on its base model. Raises InputError where it does not fit."""
        try:
            model = PeftModel.from_pretrained(base, str(self._folder))
        except (OSError, ValueError, TypeError, RuntimeError, KeyError) as error:
            raise InputError(
                f"the adapter in {self._folder} does not fit {type(base).__name__}: "
                f"{' '.join(str(error).split())[:200]}"
            ) from error
        if self.places(model).keys() != self.weights.keys():
            names = sorted(self.places(model).keys() ^ self.weights.keys())
            raise InputError(
                f"the adapter in {self._folder} does not fit {type(base).__name__}: {names[0]} "
                "is not in both"
            )
        return model

    def places(self, model: PreTrainedModel | PeftModel) -> dict[str, Tensor]:
        """The adapter's tensors in the model, by their names in the file."""
        found: dict[str, Tensor] = {}
        for name, parameter in model.named_parameters():
            # The file leaves out the name that the model gives the adapter.
            stored = re.sub(r"\.(lora_\w+|ia3_l)\.[^.]+(?=\.|$)", r".\1", name)
            if stored != name:
                found[stored] = parameter
        return found

    def neutral(self, name: str, tuned: Tensor) -> Tensor:
        """What stands in place of `tuned` in the adapter that changes nothing."""
        if name.endswith("ia3_l"):
            return torch.ones_like(tuned)
        return torch.zeros_like(tuned) if re.search(r"\.lora_(embedding_)?B", name) else tuned

    def _read_settings(self) -> dict[str, Any]:
        path = self._folder / "adapter_config.json"
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read: save the adapter again") from error
        if not isinstance(settings, dict):
            raise InputError(f"{path} is no adapter's configuration: save the adapter again")
        return settings

    def _require_linear(self) -> None:
        kind = self._settings.get("peft_type")
        if kind not in _TENSORS:
            raise self._not_scalable(f"is of the kind {kind}")
        for name, value in self._settings.items():
            if name == "init_lora_weights":
                harmless = value in _INITIALISATIONS
            else:
                harmless = not value or value == "none" or name in _WITHOUT_EFFECT
            if not harmless:
                raise self._not_scalable(f"sets {name} to {value}")

    def _not_scalable(self, reason: str) -> InputError:
        return InputError(
            f"the adapter in {self._folder} {reason}, and only plain LoRA and IA3 can be scaled: "
            "merge it into its base model first (merge_and_unload, then save_pretrained)"
        )


class AdapterBlend:
    """A LoRA or IA3 adapter at c times its effect, on its base model.

    That is the interpolation of the merged weights, exactly, since these are linear in lora_B and
    in IA3's vectors: W + c s B A = W + c (W + s B A - W), and so for (1 + c (l - 1)) W.
    """

    def __init__(self, base: ModelConfig, adapter: ScalableAdapter) -> None:
        self._adapter = adapter
        wider = torch.promote_types(StoredWeights(Path(base.model)).dtype, adapter.weights.dtype)
        self._base, self.dtype = held_and_written(base, wider)

    def load(self) -> PeftModel:
        model = self._adapter.on(load_model(self._base))
        self.apply(model, 0.0)
        return model

    def apply(self, model: PreTrainedModel | PeftModel, coefficient: float) -> None:
        with torch.no_grad():
            for name, place in self._adapter.places(model).items():
                tuned = self._adapter.weights[name].to(place.device)
                neutral = self._adapter.neutral(name, tuned)
                place.copy_(interpolated(neutral, tuned, coefficient))
