"""How many token ids a model has embeddings for."""

from typing import Any

from torch import Tensor, nn

__all__ = ["embedding_rows"]


def embedding_rows(model: nn.Module) -> int:
    """The number of token ids that the model knows; 0 where its weights are not all here."""
    known: Any = model
    weight: Tensor = known.get_input_embeddings().weight
    return len(weight) if weight.dim() > 1 else 0
