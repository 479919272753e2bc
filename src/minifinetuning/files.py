"""Files that are whole or not there at all, locks on them, and the user's cache folder."""

import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from minifinetuning.errors import InputError

__all__ = [
    "LOCK",
    "cache_folder",
    "claimed",
    "locked",
    "printable",
    "read_json",
    "remove_leftovers",
    "replacing",
    "write_atomically",
]

LOCK = ".lock"
"""The file by which a folder is locked."""


def cache_folder() -> Path:
    """What can be made or fetched again: $MINIFINETUNING_CACHE, or a folder in the user's cache."""
    if own := os.environ.get("MINIFINETUNING_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minifinetuning"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, for a file or a folder; renamed to `path` when all went well.

        with replacing(path) as temporary:
            temporary.write_bytes(content)

    Nothing is left of it where an exception ends the block. The folders above `path` are made.
    The name differs each time, so that two writers of one file do not meet, even over a network.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes left of `path` half-written; for who has claimed it."""
    for leftover in path.parent.glob(f".{path.name}.*"):
        if leftover.suffix != LOCK:
            leftover.unlink(missing_ok=True)


def printable(name: object) -> str:
    """The name of a file as any other file and any program can hold it: what is no UTF-8 is �."""
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def write_atomically(path: Path, content: str | dict[str, Any]) -> None:
    """Write text, or a dict as JSON, with a line feed at its end, under a temporary name first.

    What JSON cannot hold does not cost the rest: a number that is not finite is written as null,
    any other object as its text, and bytes of a file's name that are no UTF-8 as a sign for that.
    """
    text = content if isinstance(content, str) else _json(content)
    with replacing(path) as temporary:
        # As a write_text on any system does not: line feeds alone, and what is no text replaced.
        whole = text if text.endswith("\n") else text + "\n"
        temporary.write_bytes(whole.encode("utf-8", "replace"))


def read_json(path: Path) -> Any:
    """The content of a JSON file; None where there is none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _json(content: dict[str, Any]) -> str:
    return json.dumps(_writable(content), indent=2, allow_nan=False, default=str)


def _writable(value: Any) -> Any:
    if isinstance(value, dict):
        return {_writable(str(name)): _writable(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_writable(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if type(value) is int and abs(value) >= 2**64:
        # Python itself refuses to write the longest ones.
        return hex(value)
    return value


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether `path`, a file or folder, is this process's alone until the block ends.

        with claimed(path) as mine:
            if mine and not path.exists():
                write_atomically(path, content)

    False where another process, or thread, is at it. The lock is the operating system's, on a file
    beside `path` that goes with it: the claim of a process that dies dies with it. The folder above
    `path` must be there.
    """
    with _held(path.with_name(f".{path.name}{LOCK}")) as mine:
        yield mine


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process out of `folder`, which must be there, until the block ends.

    Raises InputError at once where another one is in it. Blocks of one thread may be nested.
    """
    with _held(folder / LOCK) as mine:
        if not mine:
            raise InputError(
                f"another run is writing to {folder}: wait until it has ended, or name another "
                "folder"
            )
        yield


@contextmanager
def _held(lock_file: Path) -> Iterator[bool]:
    # One lock for each path and thread, which counts how often it is held.
    lock = FileLock(lock_file.resolve(), is_singleton=True)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        if lock.lock_counter == 1:
            # While it is still held: whoever opened the file meanwhile sees that it is gone.
            with suppress(OSError):
                Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
