"""What a teacher's cache was computed from: by content, never by name or position."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import PreTrainedModel

from minifinetuning.data.batches import Sequences, normalized
from minifinetuning.models.causal import causal_model

__all__ = [
    "Fingerprint",
    "TextIdentity",
    "starting_weights",
    "text_identity",
    "weights_identity",
]

FORMAT = 1

_WORDS = {
    "format": "written by another version of minifinetuning",
    "kind": "another kind of cache",
    "text": "of another text (token ids, masks or labels differ)",
    "weights": "of another model (weights or configuration differ)",
    "dtype": "stored in another dtype",
    "computed_in": "computed in another precision",
    "torch": "computed by another version of torch",
    "transformers": "computed by another version of transformers",
}

_IRRELEVANT_SETTINGS = (
    *("_name_or_path", "transformers_version", "architectures", "use_cache", "dtype"),
    *("torch_dtype", "quantization_config", "output_attentions", "output_hidden_states"),
)
"""Settings of a model that may differ while its hidden states are the same."""


@dataclass(frozen=True)
class Fingerprint:
    """Everything that a cache's numbers depend on; no objective, no tau, no adapter.

    `kind` is "hidden" or "expected", `dtype` what its states are stored in, `computed_in` the
    precision of the forward that gave them.
    """

    kind: str
    text: str
    weights: str
    dtype: str
    computed_in: str
    torch: str = torch.__version__.split("+")[0]  # The build ("+cpu") does not matter.
    transformers: str = version("transformers")
    format: int = FORMAT

    @property
    def key(self) -> str:
        """SHA-256 over all fields, in hexadecimal."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def difference(self, found: dict[str, Any]) -> str | None:
        """What a cache with the fields `found` is, where it is not this one."""
        for name, value in asdict(self).items():
            if found.get(name) != value:
                said = f": {found.get(name)}, not {value}"
                return _WORDS[name] + (said if name not in ("text", "weights") else "")
        return None


@dataclass(frozen=True)
class TextIdentity:
    """`digest` of all sequences, and how many tokens each of them predicts: its length - 1."""

    digest: str
    predictions: tuple[int, ...]


def text_identity(sequences: Sequences) -> TextIdentity:
    """The SHA-256 of every sequence's token ids, attention mask and labels, in order."""
    digest = hashlib.sha256()
    predictions = []
    for index in range(len(sequences)):
        example = normalized(sequences[index])
        length = len(example["input_ids"])
        digest.update(f"{length}:".encode())
        for values in example.values():
            digest.update(_bytes(values))
        predictions.append(length - 1)
    return TextIdentity(digest.hexdigest(), tuple(predictions))


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
        digest.update(_bytes(weight))
    return digest.hexdigest()


def starting_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """The parameters and their names in the model that has no adapters."""
    adapted = [name for name, part in model.named_modules() if isinstance(part, BaseTunerLayer)]
    for name, weight in model.named_parameters():
        inside = next((layer for layer in adapted if name.startswith(f"{layer}.")), None)
        if inside is None:
            yield name, weight
        elif name.startswith(f"{inside}.base_layer."):
            yield name.replace(".base_layer.", ".", 1), weight


def _bytes(values: Tensor) -> memoryview:
    flat = values.detach().cpu().contiguous().view(-1)
    return flat.view(torch.uint8).numpy().data
