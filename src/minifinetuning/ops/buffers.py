"""The memory of one call of the chunked op: logits of a chunk, and scratch for a block of it."""

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["Buffers"]

CHUNK_BYTES = 512 * 2**20
"""Memory that the logits of a chunk, of student and teacher together, may take."""

BLOCK_BYTES = 6 * 2**20
"""Logits of a block on a CPU: a few of such blocks stay in the processor's cache."""

LEAST_ROWS = {"cpu": 128, "other": 1024}
"""A chunk of fewer tokens than this starves the matrix product, whatever the budget says."""


class Buffers:
    """(n, V) tensors that every chunk of a call reuses: allocating them anew would cost the most.

    `sides` is 2 with a teacher's logits beside the student's, else 1. A block is a few rows on a
    CPU; a GPU has no cache of that size and a price for each kernel: there a block is the chunk.
    """

    def __init__(
        self, vocabulary_size: int, dtype: torch.dtype, device: torch.device, sides: int
    ) -> None:
        self.vocabulary_size, self.dtype, self.device = vocabulary_size, dtype, device
        self.row_bytes = vocabulary_size * dtype.itemsize
        self.sides = sides
        self._memory: dict[tuple[str, int], Tensor] = {}

    @property
    def chunk_rows(self) -> int:
        """Tokens of a chunk whose logits fit in `CHUNK_BYTES`."""
        on_cpu = self.device.type == "cpu"
        # Where a block is the chunk, each side takes its scratch in that size too.
        tensors = self.sides if on_cpu else 2 * self.sides
        least = LEAST_ROWS["cpu" if on_cpu else "other"]
        return max(least, CHUNK_BYTES // (self.row_bytes * tensors))

    def blocks(self, rows: int) -> Iterator[slice]:
        """The blocks of a chunk of so many tokens."""
        size = max(1, BLOCK_BYTES // self.row_bytes) if self.device.type == "cpu" else rows
        for start in range(0, rows, max(size, 1)):
            yield slice(start, min(start + size, rows))

    def logits(self, side: int, rows: int, vocabulary_size: int | None = None) -> Tensor:
        """(rows, V) for the logits of a chunk; `vocabulary_size` V is the student's by default."""
        return self._tensor(("logits", side), rows, vocabulary_size)

    def scratch(self, side: int, block: slice, vocabulary_size: int) -> Tensor:
        """(rows, V) for what is computed from the logits of a block."""
        return self._tensor(("scratch", side), block.stop - block.start, vocabulary_size)

    def _tensor(self, name: tuple[str, int], rows: int, vocabulary_size: int | None) -> Tensor:
        width = vocabulary_size or self.vocabulary_size
        # The first chunk and the first block of it are the largest.
        if name not in self._memory:
            self._memory[name] = torch.empty(rows * width, dtype=self.dtype, device=self.device)
        return self._memory[name][: rows * width].view(rows, width)
