"""Whether a model has an embedding for every token id that a text needs."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minifinetuning.errors import InputError

__all__ = ["embedding_rows", "require_embeddings"]


def embedding_rows(model: nn.Module) -> int:
    """The number of token ids that the model knows; 0 where its weights are not all here."""
    known: Any = model
    weight: Tensor = known.get_input_embeddings().weight
    return len(weight) if weight.dim() > 1 else 0


def require_embeddings(text: object, rows: int | None, name: str) -> None:
    """Raise InputError, naming the text, where one of its ids is negative or not below `rows`.

    Of a text whose ids would cost a pass over it that may be long, nothing is asked; nor where the
    number of rows is not known.
    """
    extremes = _extreme_ids(text) if rows else None
    smallest, largest = (None, None) if extremes is None else extremes
    if smallest is not None and smallest < 0:
        raise InputError(
            f"{name} has the token id {smallest:,}: ids count from 0; mark what is not to be "
            "learnt by labels of -100, and padding by attention_mask"
        )
    if rows and largest is not None and largest >= rows:
        raise InputError(
            f"{name} needs the token id {largest:,}, but the model has embeddings for {rows:,} "
            "tokens only: use the tokenizer that belongs to the model, or give the model more by "
            "model.resize_token_embeddings(len(tokenizer))"
        )


def _extreme_ids(text: object) -> tuple[int, int] | None:
    """The smallest and the largest token id of a text, where that is quickly known."""
    stream = getattr(text, "stream", None)
    if isinstance(stream, Tensor):
        return _extremes_of(stream)
    if isinstance(text, (list, tuple)):
        return _over_all([_extremes_of(row["input_ids"]) for row in text if _has_ids(row)])
    column_names: Any = getattr(text, "column_names", None)
    if isinstance(column_names, list) and "input_ids" in column_names:
        return _extremes_in_table(text)
    return None


def _has_ids(row: object) -> bool:
    return isinstance(row, Mapping) and "input_ids" in row


def _over_all(found: Sequence[tuple[int, int] | None]) -> tuple[int, int] | None:
    known = [extremes for extremes in found if extremes is not None]
    if not known:
        return None
    return min(low for low, _ in known), max(high for _, high in known)


def _extremes_of(ids: Any) -> tuple[int, int] | None:
    if not len(ids):
        return None
    if isinstance(ids, list):
        return int(min(ids)), int(max(ids))
    low, high = torch.as_tensor(ids).aminmax()
    return int(low), int(high)


def _extremes_in_table(dataset: Any) -> tuple[int, int] | None:
    """Of a `datasets.Dataset`, without a Python object for each of its ids."""
    import pyarrow.compute

    if not hasattr(dataset, "with_format") or not hasattr(dataset, "__len__"):
        return None
    batches = dataset.select_columns(["input_ids"]).with_format("arrow").iter(1000)
    columns = (pyarrow.compute.list_flatten(batch["input_ids"]) for batch in batches)
    found = [pyarrow.compute.min_max(column).as_py() for column in columns]
    return _over_all([(one["min"], one["max"]) for one in found if one["max"] is not None])
