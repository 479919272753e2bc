"""The line between two whole checkpoints: theta_A + c (theta_B - theta_A), tensor by tensor."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from minifinetuning.errors import InputError
from minifinetuning.models.causal import causal_model
from minifinetuning.models.config import ModelConfig
from minifinetuning.models.loading import (
    HELD_IN,
    LOADING_ERRORS,
    load_model,
    load_tokenizer,
    own_tokenizer,
)
from minifinetuning.models.weights import StoredWeights

__all__ = [
    "WeightBlend",
    "held_and_written",
    "interpolated",
    "require_same_model",
    "require_same_vocabulary",
]

_WITHOUT_EFFECT = (
    "_name_or_path",
    "transformers_version",
    "architectures",
    "dtype",
    "torch_dtype",
    "use_cache",
    "return_dict",
    "output_attentions",
    "output_hidden_states",
    "id2label",
    "label2id",
    "problem_type",
    "initializer_range",
    "pretraining_tp",
)
"""Settings that may differ while equal weights give equal logits."""

_OLD_BUFFERS = re.compile(
    r"rotary_emb\.inv_freq|(^|\.)position_ids$|(attn|attention)\.(masked_)?bias$"
)
"""What older checkpoints hold beside weights: tables that a model makes for itself today."""


class WeightBlend:
    """Two whole checkpoints of one architecture, in safetensors of any of the usual dtypes.

    Where the files hold the weights by the names of the model, beside the model in memory there is
    one pair of tensors at a time, and their difference. Files of other names (older ones, or parts
    that loading puts together) are loaded whole, both of them.
    """

    def __init__(self, reference: ModelConfig, tuned: ModelConfig) -> None:
        start, end = StoredWeights(Path(reference.model)), StoredWeights(Path(tuned.model))
        self._stored = start, end
        self._before: Mapping[str, Tensor] = start
        self._after: Mapping[str, Tensor] = end
        wider = torch.promote_types(start.dtype, end.dtype)
        self._reference, self.dtype = held_and_written(reference, wider)
        self._tuned = replace(self._reference, model=tuned.model)

    def load(self) -> PreTrainedModel:
        """The reference. Raises InputError where no line goes from it to the tuned model."""
        model = load_model(self._reference)
        places = _places(model)
        start, end = self._stored
        for stored in self._stored:
            _require_own_tensors(model, places, stored)
        if all(places.keys() <= stored.keys() for stored in self._stored) and all(
            start.shapes[name] == end.shapes[name] == place.shape
            and torch.equal(start[name].to(place.dtype), place)
            for name, place in places.items()
        ):
            self._before, self._after = start, end
        else:
            self._before = {name: place.detach().clone() for name, place in places.items()}
            self._after = load_model(self._tuned).state_dict()
        for name, place in places.items():
            if not place.is_floating_point() and not torch.equal(place, self._after[name]):
                raise InputError(
                    f"{self._tuned.model} and {self._reference.model} differ in {name}, which "
                    "holds whole numbers: nothing lies between them"
                )
        return model

    def apply(self, model: PreTrainedModel | PeftModel, coefficient: float) -> None:
        """Move every weight of `model` to the coefficient c."""
        with torch.no_grad():
            for name, place in _places(causal_model(model)).items():
                before, after = self._before[name], self._after[name]
                value = interpolated(before.to(place.device), after.to(place.device), coefficient)
                # Measured as it would be written: a budget is kept by what lies in the folder.
                place.copy_(value.to(self.dtype) if place.is_floating_point() else value)


def _require_own_tensors(
    model: PreTrainedModel, places: Mapping[str, Tensor], stored: StoredWeights
) -> None:
    """Raise InputError for a tensor that the model lacks, or of which it ties two that differ.

    Where the files have other names than the model, transformers alone knows which is which.
    """
    if not places.keys() <= stored.keys():
        return
    named = model.state_dict(keep_vars=True)
    first = {id(place): name for name, place in places.items()}
    for name in stored:
        if name not in named and not _OLD_BUFFERS.search(name):
            raise InputError(
                f"{stored.folder} holds {name}, which {type(model).__name__} does not have: its "
                "config.json is not that of its weights"
            )
        one = first[id(named[name])] if name in named else name
        if one != name and not torch.equal(stored[one], stored[name]):
            raise InputError(
                f"{stored.folder} holds {one} and {name} with different values, yet its model "
                "ties them: set tie_word_embeddings to false in its config.json"
            )


def _places(model: PreTrainedModel) -> dict[str, Tensor]:
    """The model's weights by their names, those that are tied once, by the first of theirs."""
    first: dict[int, tuple[str, Tensor]] = {}
    for name, place in model.state_dict(keep_vars=True).items():
        first.setdefault(id(place), (name, place))
    return dict(first.values())


def interpolated(reference: Tensor, tuned: Tensor, coefficient: float) -> Tensor:
    """reference + coefficient * (tuned - reference), in float32; at 0 and at 1 the very tensor."""
    if coefficient in (0, 1):
        return tuned if coefficient else reference
    difference = tuned.float() - reference.float()
    return difference.mul_(coefficient).add_(reference)


def held_and_written(model: ModelConfig, wider: torch.dtype) -> tuple[ModelConfig, torch.dtype]:
    """The model as it is held in memory, and the dtype that its weights are rounded to.

    `wider` is that of the two ends together; a dtype that the configuration names is both.
    """
    if model.dtype is None:
        return replace(model, dtype=HELD_IN), wider
    written = wider if model.dtype == "auto" else getattr(torch, model.dtype)
    return replace(model, dtype=str(written).removeprefix("torch.")), written


def require_same_model(reference: ModelConfig, tuned: ModelConfig) -> None:
    """Raise InputError where the two configurations would make different models of equal weights.

    A quantised model is refused too: its tensors are not its weights.
    """
    before, after = _settings(reference), _settings(tuned)
    for name in sorted(before.keys() | after.keys(), key=_most_telling_first):
        if before.get(name) != after.get(name):
            raise InputError(
                f"{tuned.model} is not {reference.model} with other weights: {name} is "
                f"{after.get(name)} there and {before.get(name)} here; give the model that it was "
                "tuned from"
            )


def require_same_vocabulary(reference: ModelConfig, tuned: ModelConfig) -> None:
    """Raise InputError where the two tokenizers know other tokens, or number them differently.

    A tuned folder without a tokenizer is taken for one that did not change it.
    """
    before, after = load_tokenizer(reference), own_tokenizer(tuned)
    if after is not None and before.get_vocab() != after.get_vocab():
        raise InputError(
            f"the tokenizers of {tuned.model} and {reference.model} have different vocabularies: "
            "weights can only be blended where every token means the same"
        )


def _settings(model: ModelConfig) -> dict[str, Any]:
    """What the configuration says of the model, without tokens that only generation needs."""
    try:
        config = AutoConfig.from_pretrained(model.model, trust_remote_code=model.trust_remote_code)
    except LOADING_ERRORS as error:
        raise InputError(
            f"{model.model} has no config.json that can be read: give a folder that "
            "save_pretrained wrote"
        ) from error
    settings: dict[str, Any] = config.to_dict()
    if settings.get("quantization_config"):
        raise InputError(
            f"{model.model} is quantised, so its tensors are not its weights: save it in bfloat16 "
            "or float32 first"
        )
    return {
        name: value
        for name, value in settings.items()
        if name not in _WITHOUT_EFFECT and not name.endswith(("_token_id", "dropout", "pdrop"))
    }


def _most_telling_first(name: str) -> tuple[bool, bool, str]:
    return name != "model_type", name != "vocab_size", name
