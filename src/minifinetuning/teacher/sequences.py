"""A dataset that brings along what the teacher said of each sequence."""

from collections.abc import Mapping
from typing import Any

from torch.utils.data import Dataset

from minifinetuning.data.batches import Sequences
from minifinetuning.teacher.store import TeacherStore

__all__ = ["SequencesWithTeacher"]


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
