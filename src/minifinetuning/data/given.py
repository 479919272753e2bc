"""Whether a text can be trained or measured on at all, asked before any work."""

from collections.abc import Mapping, Sized
from typing import Any

import torch
from torch import Tensor

from minifinetuning.data.batches import END_COLUMN, normalized
from minifinetuning.data.packing import PackedSequences
from minifinetuning.errors import InputError

__all__ = ["predicts_text", "require_lengths", "require_sequences"]


def require_sequences(text: object, name: str) -> None:
    """Raise InputError, naming the text, where it holds no sequence with a token to predict.

    Of a text without length or places, which can be gone through once, nothing is asked.
    """
    if not (isinstance(text, Sized) and hasattr(text, "__getitem__")):
        return
    if len(text) == 0:
        raise InputError(f"{name} holds no sequences: give at least one")
    try:
        is_of_use = predicts_text(text)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    if not is_of_use:
        raise InputError(
            f"{name} has no token to predict: in every sequence all labels are -100, or there is "
            "one token alone; give longer sequences, or labels"
        )


def predicts_text(text: Any) -> bool:
    """Whether a token of text, neither the first of its sequence nor an end, has a label."""
    for index in range(len(text)):
        example = text[index]
        labels = normalized(example)["labels"]
        is_end = torch.as_tensor(example.get(END_COLUMN, torch.zeros(len(labels))))
        if bool((labels.ne(-100) & ~is_end.bool()).any()):
            return True
    return False


def require_lengths(text: object, limit: int | None, name: str) -> None:
    """Raise InputError, naming the text, where a sequence is longer than the model's `limit`."""
    longest = None if limit is None else _longest(text)
    if limit is not None and longest is not None and longest > limit:
        raise InputError(
            f"{name} has a sequence of {longest:,} tokens, above the model's limit of {limit:,}: "
            "cut the text into shorter sequences"
        )


def _longest(text: object) -> int | None:
    """Tokens of the longest sequence; None where knowing it would take a pass that may be long."""
    if isinstance(text, PackedSequences):
        return text.sequence_length
    if isinstance(text, (list, tuple)):
        rows = (row["input_ids"] for row in text if isinstance(row, Mapping) and "input_ids" in row)
        return max(map(len, rows), default=None)
    tokens = getattr(text, "tokens", None)
    if isinstance(tokens, Tensor) and tokens.dim() == 2:
        return tokens.shape[1]
    column_names: Any = getattr(text, "column_names", None)
    if isinstance(column_names, list) and "input_ids" in column_names:
        return _longest_in_table(text)
    return None


def _longest_in_table(dataset: Any) -> int | None:
    """Of a `datasets.Dataset`, without a Python object for each of its ids."""
    import pyarrow.compute

    if not hasattr(dataset, "with_format") or not hasattr(dataset, "__len__"):
        return None
    batches = dataset.select_columns(["input_ids"]).with_format("arrow").iter(1000)
    lengths = (pyarrow.compute.list_value_length(batch["input_ids"]) for batch in batches)
    found = [pyarrow.compute.max(column).as_py() for column in lengths]
    return max((longest for longest in found if longest is not None), default=None)
