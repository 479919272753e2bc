"""The columns of the two kinds of cache: what is stored of the teacher, and how the op gets it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from minifinetuning.data.sequences import TEACHER_COLUMN, Sequences
from minifinetuning.errors import InputError
from minifinetuning.ops import ExpectedEmbedding, Head, TeacherStates, expected_embedding
from minifinetuning.teacher.fingerprint import Column
from minifinetuning.teacher.live import Teacher
from minifinetuning.teacher.store import TeacherStore

__all__ = [
    "EXPECTED",
    "HIDDEN",
    "CachedExpectation",
    "CachedStates",
    "SequencesWithTeacher",
    "cached_teacher",
    "columns",
    "values",
]

HIDDEN, EXPECTED = "hidden", "expected"

_HIDDEN = f"{TEACHER_COLUMN}hidden"
_EMBEDDING, _SCALARS = f"{TEACHER_COLUMN}embedding", f"{TEACHER_COLUMN}scalars"


def columns(kind: str, width: int, dtype: torch.dtype) -> tuple[Column, ...]:
    """What is stored of each prediction, for states of `width` H in `dtype`.

    hidden: the last hidden state, 2 * H bytes in bfloat16. expected: the expected embedding and
    four float32 scalars (its bias, p_T[l], max p_T, sum(p_T * log p_T)), 2 * H + 16 bytes.
    """
    if kind == HIDDEN:
        return (Column(_HIDDEN, width, dtype),)
    return (Column(_EMBEDDING, width, dtype), Column(_SCALARS, 4, torch.float32))


def values(kind: str, states: TeacherStates, labels: Tensor) -> dict[str, Tensor]:
    """The columns of N predictions, (N, width) each, in the precision they are computed in."""
    if kind == HIDDEN:
        return {_HIDDEN: states.hidden}
    expected = expected_embedding(states.hidden, states.head, labels)
    scalars = (expected.bias, expected.label, expected.highest, expected.negative_entropy)
    return {_EMBEDDING: expected.embedding, _SCALARS: torch.stack(scalars, 1)}


def cached_teacher(kind: str, head: Head) -> Teacher:
    """The teacher that reads the columns of batches; `head` is the student's, before training."""
    return CachedStates(head) if kind == HIDDEN else CachedExpectation()


class CachedStates:
    """The teacher as the hidden states that come with each batch, and its own output head.

    The head is copied where the student's is trained: it is all that stays of the teacher.
    """

    def __init__(self, head: Head) -> None:
        tensors = [tensor for tensor in (head.weight, head.bias) if tensor is not None]
        trained = any(tensor.requires_grad for tensor in tensors)
        self.head = head.detached().cloned() if trained else head.detached()

    def outputs(self, inputs: Mapping[str, Any]) -> TeacherStates:
        return TeacherStates(_column(inputs, _HIDDEN), self.head)


class CachedExpectation:
    """The teacher as the expected embeddings that come with each batch: no head, no vocabulary."""

    def outputs(self, inputs: Mapping[str, Any]) -> ExpectedEmbedding:
        bias, label, highest, negative_entropy = _column(inputs, _SCALARS).unbind(1)
        return ExpectedEmbedding(
            _column(inputs, _EMBEDDING), bias, label, highest, negative_entropy
        )


def _column(inputs: Mapping[str, Any], name: str) -> Tensor:
    """(B * (T - 1), width) of a column (B, T - 1, width)."""
    if name not in inputs:
        raise InputError(
            f"the batch has no column {name!r} of the teacher's cache: a data_collator must pass "
            f"columns that begin with {TEACHER_COLUMN!r} on, as minifinetuning's own does, "
            "remove_unused_columns must be off, or teacher_cache must be none"
        )
    column: Tensor = inputs[name].flatten(0, 1)
    return column


class SequencesWithTeacher(Dataset[Mapping[str, Any]]):
    """The items of `sequences`, each with the columns of `store`, (T - 1, width)."""

    def __init__(self, sequences: Sequences, store: TeacherStore) -> None:
        self.sequences, self.store = sequences, store

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sequence {index} of {len(self)}")
        return {**self.sequences[index], **self.store.read(index % len(self))}
