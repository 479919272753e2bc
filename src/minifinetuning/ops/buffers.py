"""The memory of one call of an op that works in chunks, and how many tokens a chunk has."""

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["AlignedBuffers", "Buffers", "chunk_rows_within_budget"]

CHUNK_BYTES = 256 * 2**20
"""Memory that the logits of a chunk, of student and teacher together, may take."""

BLOCK_BYTES = 6 * 2**20
"""Logits of a block on a CPU: a few of such blocks stay in the processor's cache."""

LEAST_ROWS = {"cpu": 128, "other": 1024}
"""A chunk of fewer tokens than this starves the matrix product, whatever the budget says."""

ALIGNMENT = 64
"""Entries that a row of an aligned buffer is filled up to: a vocabulary of 50257 otherwise leaves
every row but the first where neither a matrix product nor a kernel can read it in wide words."""


def chunk_rows_within_budget(tokens: int, row_bytes: int, device: torch.device) -> int:
    """Tokens of a chunk: as many as fit in `CHUNK_BYTES`, chunks of one size."""
    least = LEAST_ROWS["cpu" if device.type == "cpu" else "other"]
    most = max(least, CHUNK_BYTES // row_bytes)
    chunks = max(1, -(-tokens // most))
    return max(1, -(-tokens // chunks))


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

    def chunk_rows(self, tokens: int) -> int:
        """Tokens of a chunk within the budget."""
        # Where a block is the chunk, each side takes its scratch in that size too.
        tensors = self.sides if self.device.type == "cpu" else 2 * self.sides
        return chunk_rows_within_budget(tokens, tensors * self.row_bytes, self.device)

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


class AlignedBuffers:
    """(n, V) tensors that every chunk of a call reuses, rows of adjacent entries, aligned."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._memory: dict[str, Tensor] = {}

    def tensor(self, name: str, rows: int, width: int, dtype: torch.dtype) -> Tensor:
        """(rows, width): of one name the first is the largest, and all are of one dtype."""
        stride = -(-width // ALIGNMENT) * ALIGNMENT
        if name not in self._memory:
            self._memory[name] = torch.empty(rows * stride, dtype=dtype, device=self.device)
        return self._memory[name][: rows * stride].view(rows, stride)[:, :width]
