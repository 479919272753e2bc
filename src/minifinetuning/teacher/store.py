"""A teacher's cache on disk: a manifest, and parts of consecutive sequences in safetensors."""

import errno
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from minifinetuning.errors import InputError
from minifinetuning.files import claimed, remove_leftovers, replacing, write_atomically
from minifinetuning.teacher.fingerprint import Contents, format_bytes

__all__ = ["TeacherStore", "stored_fingerprint"]

MANIFEST = "cache.json"

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class TeacherStore:
    """The rows that `contents` describe, in a folder; read by sequence through a memory map.

        folder/cache.json                 what they were computed from
        folder/part-00000.safetensors     consecutive sequences, their rows one below the other

    A part is there whole or not at all. Each sequence has a checksum of its own, so that whatever
    a disk did to it is noticed when it is read. Raises InputError, saying why, where the folder
    holds something other than these contents, and while reading where a part is damaged.
    """

    def __init__(self, folder: Path, contents: Contents) -> None:
        self.folder, self.contents = folder, contents
        self.parts = contents.parts()
        self._part_of = [number for number, part in enumerate(self.parts) for _ in part]
        self._opened: dict[int, _OpenPart] = {}
        found = stored_fingerprint(folder)
        difference = found and contents.fingerprint.difference(found)
        if difference:
            raise InputError(
                f"--teacher_cache {folder} is {difference}: name another folder, or remove it"
            )

    def __getstate__(self) -> dict[str, Any]:
        # Memory maps do not travel to the workers of a DataLoader: each opens its own.
        return self.__dict__ | {"_opened": {}}

    @property
    def missing(self) -> list[int]:
        """The numbers of the parts that have not been written yet."""
        return [part for part in range(len(self.parts)) if not self.path(part).exists()]

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to be computed."""
        return (self.folder / MANIFEST).exists() and not self.missing

    def path(self, part: int) -> Path:
        """Where a part lies, or will."""
        return self.folder / f"part-{part:05d}.safetensors"

    # Writing

    def begin(self) -> None:
        """Write the manifest: from now on the folder is this cache's."""
        with self._naming_full_disk():
            write_atomically(self.folder / MANIFEST, self.contents.manifest())

    @contextmanager
    def claimed(self, part: int) -> Iterator[bool]:
        """Whether this process may compute the part: no other one does, and it is not there yet.

        The claim of a process that dies dies with it.
        """
        with self._naming_full_disk(), claimed(self.path(part)) as mine:
            # Only while it is claimed does "not there" mean that nobody is at it.
            is_free = mine and not self.path(part).exists()
            if is_free:
                remove_leftovers(self.path(part))
            yield is_free

    def write(self, part: int, sequences: Sequence[Mapping[str, Tensor]]) -> None:
        """Write a part: for each of its sequences the columns, (predictions, width) each."""
        tensors = {
            column.name: torch.cat([sequence[column.name] for sequence in sequences])
            for column in self.contents.columns
        }
        metadata = {
            "key": self.contents.fingerprint.key,
            "checksums": json.dumps([_checksum(sequence) for sequence in sequences]),
        }
        content = save(tensors, metadata)
        with self._naming_full_disk(), replacing(self.path(part)) as temporary:
            temporary.write_bytes(content)

    @contextmanager
    def _naming_full_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            missing = len(self.missing)
            raise InputError(
                f"--teacher_cache: no space left for {self.folder} ({error.strerror}): "
                f"{len(self.parts) - missing} of {len(self.parts)} parts are kept, and "
                f"{format_bytes(self.contents.bytes * missing // len(self.parts))} more are "
                "needed; free them, name a folder on another disk, or pass --teacher_cache none"
            ) from error

    # Reading

    def read(self, sequence: int) -> dict[str, Tensor]:
        """The columns of one sequence, (predictions, width) each."""
        part = self._part_of[sequence]
        opened = self._open(part)
        first = self.parts[part].start
        start = sum(self.contents.predictions[first:sequence])
        rows = slice(start, start + self.contents.predictions[sequence])
        values: dict[str, Tensor] = {name: of[rows] for name, of in opened.slices.items()}
        if _checksum(values) != opened.checksums[sequence - first]:
            raise self._unusable(part, f"sequence {sequence} is not what was written")
        return values

    def require_whole(self) -> None:
        """Open every part. Raises InputError where one is missing, truncated or foreign."""
        for part in range(len(self.parts)):
            self._open(part)

    def _open(self, part: int) -> "_OpenPart":
        if part not in self._opened:
            columns = self.contents.columns
            try:
                file = safe_open(self.path(part), framework="pt")
                slices = {column.name: file.get_slice(column.name) for column in columns}
                metadata = file.metadata() or {}
            except FileNotFoundError:
                raise self._unusable(part, "it is missing") from None
            except (SafetensorError, OSError) as error:
                raise self._unusable(part, " ".join(str(error).split())) from error
            self._require_own(part, slices, metadata)
            self._opened[part] = _OpenPart(slices, json.loads(metadata["checksums"]))
        return self._opened[part]

    def _require_own(self, part: int, slices: Mapping[str, Any], metadata: Any) -> None:
        if metadata.get("key") != self.contents.fingerprint.key:
            raise self._unusable(part, "it belongs to another cache")
        rows = sum(self.contents.predictions[index] for index in self.parts[part])
        for column in self.contents.columns:
            found = list(slices[column.name].get_shape())
            if found != [rows, column.width]:
                raise self._unusable(part, f"{column.name} is {found}, not {[rows, column.width]}")

    def _unusable(self, part: int, reason: str) -> InputError:
        return InputError(
            f"--teacher_cache: {self.path(part)} cannot be used, {reason}: "
            "remove that file, and it is computed again"
        )


@dataclass(frozen=True)
class _OpenPart:
    """The tensors of a part, mapped, and a checksum for each of its sequences."""

    slices: Mapping[str, Any]
    checksums: list[int]


def stored_fingerprint(folder: Path) -> dict[str, Any] | None:
    """The fields of the fingerprint of the cache in `folder`; None where none is there yet.

    Caches of other texts may lie in folders below it. Raises InputError where what is there is no
    teacher's cache.
    """
    if not folder.exists():
        return None
    if folder.is_dir() and all(
        entry.name.startswith(".") or (entry / MANIFEST).is_file() for entry in folder.iterdir()
    ):
        return None
    try:
        content = (folder / MANIFEST).read_text(encoding="utf-8")
        found: dict[str, Any] = dict(json.loads(content)["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"--teacher_cache {folder} is neither empty nor a teacher's cache with a readable "
            f"{MANIFEST}: name another folder, or remove it"
        ) from None
    return found


def _checksum(values: Mapping[str, Tensor]) -> int:
    """CRC-32 of the columns of a sequence, in the order of their names."""
    total = 0
    for name in sorted(values):
        total = zlib.crc32(values[name].contiguous().view(-1).view(torch.uint8).numpy().data, total)
    return total
