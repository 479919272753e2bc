"""Quick names for texts and models: by content, but of a sample where all of it takes too long."""

import hashlib
import json
from collections.abc import Sized
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from minifinetuning.data.batches import normalized
from minifinetuning.models.causal import causal_model
from minifinetuning.models.identity import starting_weights

__all__ = ["sampled_text_identity", "sampled_weights_identity"]

SEQUENCES, VALUES = 256, 256
"""Of a text that does not know its own identity, and of each tensor of a model."""


def sampled_text_identity(text: Any) -> str | None:
    """The text's own `identity`, else a SHA-256 of its length and 256 sequences spread over it.

    None for a text of unknown length, which may give other sequences each time.
    """
    own = getattr(text, "identity", None)
    if isinstance(own, str):
        return own
    if not isinstance(text, Sized) or not hasattr(text, "__getitem__"):
        return None
    digest = hashlib.sha256(f"{len(text)}:".encode())
    for index in _spread(len(text), SEQUENCES):
        for name, values in sorted(normalized(text[index]).items()):
            digest.update(f"{name}:{len(values)}:".encode())
            digest.update(values.numpy().tobytes())
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
        places = torch.tensor(_spread(weight.numel(), VALUES), dtype=torch.long)
        sample = weight.detach().reshape(-1)[places.to(weight.device)]
        digest.update(sample.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _spread(count: int, most: int) -> list[int]:
    """At most `most` numbers below `count`, evenly spread, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [number * (count - 1) // (most - 1) for number in range(most)]
