"""Which weights a model has, by content: the same wherever it lies and whatever it is called."""

import hashlib
import json
from collections.abc import Iterator

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import PreTrainedModel

from minifinetuning.models.causal import causal_model

__all__ = [
    "bytes_of",
    "sampled_weights_identity",
    "spread",
    "starting_weights",
    "weights_identity",
]

_SAMPLED_VALUES = 256
"""Of each tensor, where all of them would take too long."""

_IRRELEVANT_SETTINGS = (
    "_name_or_path",
    "transformers_version",
    "architectures",
    "use_cache",
    "dtype",
    "torch_dtype",
    "quantization_config",
    "output_attentions",
    "output_hidden_states",
)
"""Settings of a model that may differ while its hidden states are the same."""


def weights_identity(model: PreTrainedModel | PeftModel) -> str:
    """The SHA-256 of the starting model: its configuration and its weights without adapters.

    A model has the same identity with and without adapters, so that full finetuning and any
    adapter share one cache. It must not have been trained yet.
    """
    inner = causal_model(model)
    settings = {
        name: value
        for name, value in inner.config.to_dict().items()
        if name not in _IRRELEVANT_SETTINGS
    }
    said = json.dumps([type(inner).__name__, settings], sort_keys=True, default=str)
    digest = hashlib.sha256(said.encode())
    for name, weight in sorted(starting_weights(inner)):
        digest.update(f"{name}:{weight.dtype}:{tuple(weight.shape)}:".encode())
        digest.update(bytes_of(weight))
    return digest.hexdigest()


def sampled_weights_identity(model: PreTrainedModel | PeftModel) -> str:
    """A SHA-256 of the names, shapes and dtypes of all weights, and of 256 values of each.

    Adapters are left out: a run that goes on has its own from the checkpoint. It must be taken
    before training.
    """
    inner = causal_model(model)
    digest = hashlib.sha256(type(inner).__name__.encode())
    for name, weight in sorted(starting_weights(inner)):
        digest.update(json.dumps([name, list(weight.shape), str(weight.dtype)]).encode())
        places = torch.tensor(spread(weight.numel(), _SAMPLED_VALUES), dtype=torch.long)
        digest.update(bytes_of(weight.detach().reshape(-1)[places.to(weight.device)]))
    return digest.hexdigest()


def spread(count: int, most: int) -> list[int]:
    """At most `most` numbers below `count`, evenly spread, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [number * (count - 1) // (most - 1) for number in range(most)]


def starting_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """The parameters and their names in the model that has no adapters."""
    adapted = [name for name, part in model.named_modules() if isinstance(part, BaseTunerLayer)]
    for name, weight in model.named_parameters():
        inside = next((layer for layer in adapted if name.startswith(f"{layer}.")), None)
        if inside is None:
            yield name, weight
        elif name.startswith(f"{inside}.base_layer."):
            yield name.replace(".base_layer.", ".", 1), weight


def bytes_of(values: Tensor) -> memoryview:
    """The memory of a tensor's values, of any dtype and device."""
    flat = values.detach().cpu().contiguous().view(-1)
    return flat.view(torch.uint8).numpy().data
