"""Sequences to batches: padding, labels, and what a teacher's cache brings along."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = [
    "REPLAY_COLUMN",
    "TEACHER_COLUMN",
    "Sequences",
    "collate",
    "model_inputs",
    "normalized",
]

TEACHER_COLUMN = "teacher_"
"""Columns of this beginning hold one row per prediction, (T - 1, ...): see `collate`."""

REPLAY_COLUMN = "is_replay"
"""Whether a sequence is replayed; of a batch: whether all of it is. No column means that it is not.

A plain bool: what a batch is has to be known without waiting for the device.
"""

_FILLERS = {"input_ids": 0, "attention_mask": 0, "labels": -100}


class Sequences(Protocol):
    """A dataset of token sequences: `PackedSequences`, a `datasets.Dataset`, a list of dicts."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


def normalized(example: Mapping[str, Any]) -> dict[str, Tensor]:
    """`input_ids`, `attention_mask` and `labels`, each (T,) of int64.

    Missing labels are the input ids. Padding, and the first token of a sequence, which nothing
    predicts, get the label -100, so that counting labels counts predictions.
    """
    tokens = torch.as_tensor(example["input_ids"]).long()
    mask = torch.as_tensor(example.get("attention_mask", torch.ones_like(tokens))).long()
    labels = torch.as_tensor(example.get("labels", tokens)).long().masked_fill(mask == 0, -100)
    labels[0] = -100
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


def collate(examples: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Examples, as `normalized` makes them, to a batch of (B, T) tensors.

    Shorter sequences are padded at their end. Columns that begin with `teacher_` come along as
    (B, T - 1, ...), padded with zeros, and `is_replay` as one bool; all others are left out.
    """
    rows = [normalized(example) for example in examples]
    length = max(len(row["input_ids"]) for row in rows)
    batch: dict[str, Any] = {
        name: torch.stack([_padded(row[name], length, filler) for row in rows])
        for name, filler in _FILLERS.items()
    }
    for name in examples[0]:
        if name.startswith(TEACHER_COLUMN):
            batch[name] = torch.stack([_padded(row[name], length - 1, 0) for row in examples])
    if any(REPLAY_COLUMN in example for example in examples):
        batch[REPLAY_COLUMN] = all(example.get(REPLAY_COLUMN, False) for example in examples)
    return batch


def model_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch as a model takes it: without what is about the loss alone."""
    return {
        name: value
        for name, value in batch.items()
        if not name.startswith(TEACHER_COLUMN) and name != REPLAY_COLUMN
    }


def _padded(values: Tensor, length: int, filler: int) -> Tensor:
    """`values` (n, ...) with fillers up to `length` rows."""
    missing = length - len(values)
    if not missing:
        return values
    return torch.cat([values, values.new_full((missing, *values.shape[1:]), filler)])
