"""What a teacher's cache is of (its key) and holds: by content, never by name or position."""

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import torch

from minifinetuning.data.sequences import Sequences, normalized
from minifinetuning.models.weights import bytes_of

__all__ = ["Column", "Contents", "Fingerprint", "TextIdentity", "format_bytes", "text_identity"]

FORMAT = 1

_WORDS = {
    "format": "written by another version of minifinetuning",
    "kind": "another kind of cache",
    "text": "of another text (token ids, masks or labels differ)",
    "weights": "of another model (weights or configuration differ)",
    "dtype": "stored in another dtype",
    "computed_in": "computed in another precision",
    "torch": "computed by another version of torch",
    "transformers": "computed by another version of transformers",
}

PART_BYTES, LEAST_PART_BYTES, PARTS = 64 * 2**20, 2**20, 100
"""A part is about a hundredth of the whole between these bounds: it is what a killed build loses,
and what processes share the work by.
"""


@dataclass(frozen=True)
class Fingerprint:
    """Everything that a cache's numbers depend on; no objective, no tau, no adapter.

    `kind` is "hidden" or "expected", `dtype` what its states are stored in, `computed_in` the
    precision of the forward that gave them.
    """

    kind: str
    text: str
    weights: str
    dtype: str
    computed_in: str
    torch: str = torch.__version__.split("+")[0]  # The build ("+cpu") does not matter.
    transformers: str = version("transformers")
    format: int = FORMAT

    @property
    def key(self) -> str:
        """SHA-256 over all fields, in hexadecimal."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def difference(self, found: dict[str, Any]) -> str | None:
        """What a cache with the fields `found` is, where it is not this one."""
        for name, value in asdict(self).items():
            if found.get(name) != value:
                said = f": {found.get(name)}, not {value}"
                return _WORDS[name] + (said if name not in ("text", "weights") else "")
        return None


@dataclass(frozen=True)
class TextIdentity:
    """`digest` of all sequences, and how many tokens each of them predicts: its length - 1."""

    digest: str
    predictions: tuple[int, ...]


def text_identity(sequences: Sequences) -> TextIdentity:
    """The SHA-256 of every sequence's token ids, attention mask and labels, in order."""
    digest = hashlib.sha256()
    predictions = []
    for index in range(len(sequences)):
        example = normalized(sequences[index])
        length = len(example["input_ids"])
        digest.update(f"{length}:".encode())
        for values in example.values():
            digest.update(bytes_of(values))
        predictions.append(length - 1)
    return TextIdentity(digest.hexdigest(), tuple(predictions))


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
