"""Put sequences together into padded batches, with what a teacher's cache knows of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from minifinetuning.data.sequences import (
    DOCUMENT_COLUMN,
    END_COLUMN,
    REPLAY_COLUMN,
    REPLAYED_ROWS,
    TEACHER_COLUMN,
    normalized,
)
from minifinetuning.errors import InputError

_FILLERS = {"input_ids": 0, "attention_mask": 0, "labels": -100}


def collate(examples: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Examples, as `normalized` makes them, to a batch of (B, T) tensors.

    Shorter sequences are padded at their end. Columns that begin with `teacher_` come along as
    (B, T - 1, ...), padded with zeros, as are rows that have none; all others are left out. What
    is replayed comes last, and `replayed_rows` says how much that is.
    """
    examples = _replayed_last(examples)
    rows = [normalized(example) for example in examples]
    batch: dict[str, Any] = {
        name: pad_sequence([row[name] for row in rows], batch_first=True, padding_value=filler)
        for name, filler in _FILLERS.items()
    }
    columns = {name: value for each in examples for name, value in each.items()}
    for name, column in columns.items():
        if name.startswith(TEACHER_COLUMN):
            batch[name] = pad_sequence(
                [
                    each.get(name, column.new_zeros(len(row["input_ids"]) - 1, *column.shape[1:]))
                    for each, row in zip(examples, rows, strict=True)
                ],
                batch_first=True,
            )
    return batch | _replayed_rows(examples)


def _replayed_last(examples: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Two slices of a batch are then its two texts."""
    return sorted(examples, key=lambda example: bool(example.get(REPLAY_COLUMN, False)))


def _replayed_rows(examples: list[Mapping[str, Any]]) -> dict[str, int]:
    rows = sum(bool(example.get(REPLAY_COLUMN, False)) for example in examples)
    return {REPLAYED_ROWS: rows} if rows else {}


def rows_of(batch: Mapping[str, Any], rows: slice) -> dict[str, Any]:
    """These rows of a batch of (B, ...) tensors."""
    return {
        name: value[rows] if isinstance(value, Tensor) else value for name, value in batch.items()
    }


class ForeignCollator:
    """Another library's collator, which never sees the columns that are ours.

    Its batches need `input_ids` and `labels` (B, T). What a teacher's cache knows is of sequences
    as `collate` makes them, so that the teacher has to be asked live.
    """

    def __init__(self, collator: Callable[[list[dict[str, Any]]], Mapping[str, Any]]) -> None:
        self.collator = collator
        self.tokenizer = getattr(collator, "tokenizer", None)

    def __call__(self, examples: list[Mapping[str, Any]]) -> dict[str, Any]:
        examples = _replayed_last(examples)
        batch = dict(self.collator([model_inputs(example) for example in examples]))
        if missing := {"input_ids", "labels"} - batch.keys():
            raise InputError(
                f"data_collator gives batches without {' and '.join(sorted(missing))}: leave it "
                "out, or give one for causal language models"
            )
        batch["labels"] = batch["labels"].clone()
        batch["labels"][:, 0] = -100
        return batch | _replayed_rows(examples)


def of_predictions(examples: Sequence[Mapping[str, Any]], first: int) -> tuple[Tensor, Tensor]:
    """Document numbers and ends of the tokens that a batch of (B, T) predicts, each (B, T - 1).

    `first` is the number of the first example in its text.
    """
    documents, ends = [], []
    for number, example in enumerate(examples, start=first):
        tokens = len(example["input_ids"])
        own = example.get(DOCUMENT_COLUMN, torch.full((tokens,), number))
        is_end = example.get(END_COLUMN, torch.zeros(tokens, dtype=torch.bool))
        documents.append(torch.as_tensor(own)[1:])
        ends.append(torch.as_tensor(is_end)[1:])
    return pad_sequence(documents, batch_first=True), pad_sequence(ends, batch_first=True)


def model_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch (or example) as a model takes it: without what is about the loss alone."""
    own = {REPLAY_COLUMN, REPLAYED_ROWS, DOCUMENT_COLUMN, END_COLUMN}
    return {
        name: value
        for name, value in batch.items()
        if not name.startswith(TEACHER_COLUMN) and name not in own
    }
