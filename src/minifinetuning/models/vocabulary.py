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
    """Raise InputError, naming the text, where one of its ids is not below `rows`.

    Of a text whose ids would cost a pass over it that may be long, nothing is asked; nor where the
    number of rows is not known.
    """
    largest = _largest_id(text) if rows else None
    if rows and largest is not None and largest >= rows:
        raise InputError(
            f"{name} needs the token id {largest:,}, but the model has embeddings for {rows:,} "
            "tokens only: use the tokenizer that belongs to the model, or give the model more by "
            "model.resize_token_embeddings(len(tokenizer))"
        )


def _largest_id(text: object) -> int | None:
    stream = getattr(text, "stream", None)
    if isinstance(stream, Tensor):
        return int(stream.max()) if len(stream) else None
    if isinstance(text, (list, tuple)):
        rows = [_largest_of(row) for row in text if isinstance(row, Mapping)]
        return max(rows, default=None)
    column_names: Any = getattr(text, "column_names", None)
    if isinstance(column_names, list) and "input_ids" in column_names:
        return _largest_in_table(text)
    return None


def _largest_of(row: Mapping[str, Any]) -> int:
    ids: Sequence[int] | Tensor = row["input_ids"]
    if isinstance(ids, list):
        return max(ids, default=0)
    return int(torch.as_tensor(ids).max()) if len(ids) else 0


def _largest_in_table(dataset: Any) -> int | None:
    """Of a `datasets.Dataset`, without a Python object for each of its ids."""
    import pyarrow.compute

    if not hasattr(dataset, "with_format") or not hasattr(dataset, "__len__"):
        return None
    batches = dataset.select_columns(["input_ids"]).with_format("arrow").iter(1000)
    columns = (pyarrow.compute.list_flatten(batch["input_ids"]) for batch in batches)
    found = [pyarrow.compute.max(column).as_py() for column in columns]
    return max((largest for largest in found if largest is not None), default=None)
