"""What a teacher's cache holds, before anything of it is computed: columns, rows, parts, bytes."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from minifinetuning.teacher.fingerprint import Fingerprint

__all__ = ["Column", "Contents", "format_bytes"]

PART_BYTES, LEAST_PART_BYTES, PARTS = 64 * 2**20, 2**20, 100
"""A part is about a hundredth of the whole between these bounds: it is what a killed build loses,
and what processes share the work by.
"""


@dataclass(frozen=True)
class Column:
    """One tensor of every prediction: `width` entries of `dtype`."""

    name: str
    width: int
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Bytes of one prediction."""
        return self.width * self.dtype.itemsize


@dataclass(frozen=True)
class Contents:
    """What a cache is to hold: `predictions` per sequence, and `columns` for each of them."""

    fingerprint: Fingerprint
    columns: tuple[Column, ...]
    predictions: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Predictions in all."""
        return sum(self.predictions)

    @property
    def row_bytes(self) -> int:
        """Bytes of one prediction."""
        return sum(column.bytes for column in self.columns)

    @property
    def bytes(self) -> int:
        """Bytes on disk, but for the headers."""
        return self.rows * self.row_bytes

    def parts(self) -> list[range]:
        """The sequences of each part: consecutive ones, at most as large as parts are to be."""
        limit = min(PART_BYTES, max(LEAST_PART_BYTES, self.bytes // PARTS))
        parts, start, held = [], 0, 0
        for index, predictions in enumerate(self.predictions):
            if held and held + predictions * self.row_bytes > limit:
                parts.append(range(start, index))
                start, held = index, 0
            held += predictions * self.row_bytes
        return [*parts, range(start, len(self.predictions))] if self.predictions else []

    def manifest(self) -> dict[str, Any]:
        """For `cache.json`."""
        return {
            "fingerprint": asdict(self.fingerprint),
            "columns": {
                column.name: [column.width, str(column.dtype).removeprefix("torch.")]
                for column in self.columns
            },
            "sequences": len(self.predictions),
            "predictions": self.rows,
            "bytes": self.bytes,
        }


def format_bytes(count: int) -> str:
    """`count` bytes as a person says it: "4.7 GB"."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
