"""The folder of all teachers' caches: how large it may be, who is at one, and who makes room."""

import json
import os
import secrets
import shutil
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from minifinetuning.files import LOCK, cache_folder
from minifinetuning.teacher.store import MANIFEST, TeacherStore

__all__ = [
    "KeptTeacher",
    "existing",
    "hold",
    "kept_teachers",
    "limit",
    "make_room",
    "prune",
    "room",
    "teachers_folder",
]

LIMIT = 64 << 30
"""Bytes that all caches together may hold at most: those used longest ago make room for new ones.

The largest model of the paper needs half of it for 4M tokens, and as much again for its replay.
"""

_USE, _REMOVED = ".use-", ".removed-"

_held: dict[Path, tuple[FileLock, list[int]]] = {}
"""What this process uses: the lock that says so, and of how many stores."""


@dataclass(frozen=True)
class KeptTeacher:
    """A cache in the folder: its size on disk, and when it was last used (nanoseconds)."""

    folder: Path
    bytes: int
    last_use: int
    is_used: bool
    kind: str
    predictions: int


def teachers_folder() -> Path:
    """Where caches lie that were given no folder of their own."""
    return cache_folder() / "teachers"


def kept_teachers() -> list[KeptTeacher]:
    """All caches there, those used longest ago first."""
    root = teachers_folder()
    folders = [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    found = [_kept(folder) for folder in folders if not folder.name.startswith(".")]
    return sorted(found, key=lambda kept: kept.last_use)


def limit() -> int:
    """Bytes that all caches may hold: `LIMIT`, or half of what would be free without them."""
    return _limit(kept_teachers())


def room(stores: Iterable[TeacherStore]) -> int:
    """Bytes that can still be written for these stores, where all that nobody uses makes room."""
    own = {store.folder for store in stores}
    kept = kept_teachers()
    return _limit(kept) - sum(each.bytes for each in kept if each.is_used or each.folder in own)


def hold(stores: Iterable[TeacherStore]) -> None:
    """Say that this process uses the stores, as long as they are there: nobody removes them.

    Those in folders of their own, which are never removed, are passed over. What a process holds
    that dies is free.
    """
    for store in stores:
        if store.folder.parent != teachers_folder():
            continue
        with _gate():
            _hold(store.folder)
        weakref.finalize(store, _release, store.folder, os.getpid())


def make_room(needed: int) -> None:
    """Remove the caches used longest ago that nobody uses, until `needed` bytes are in the limit.

    What is used is left, whether the rest then suffices or not.
    """
    with _gate():
        kept = kept_teachers()
        over = sum(each.bytes for each in kept) + needed - _limit(kept)
        for each in kept:
            if over <= 0:
                break
            if not each.is_used:
                _remove(each.folder)
                over -= each.bytes


def prune() -> list[KeptTeacher]:
    """Remove every cache that nobody uses; returns those."""
    if not teachers_folder().is_dir():
        return []
    with _gate():
        unused = [each for each in kept_teachers() if not each.is_used]
        for each in unused:
            _remove(each.folder)
    return unused


def existing(path: Path) -> Path:
    """The path, or the first folder above it that is there."""
    return next(each for each in (path, *path.absolute().parents) if each.exists())


def _limit(kept: Iterable[KeptTeacher]) -> int:
    free = shutil.disk_usage(existing(teachers_folder())).free
    return min(LIMIT, (free + sum(each.bytes for each in kept)) // 2)


def _kept(folder: Path) -> KeptTeacher:
    states = []
    for path in folder.rglob("*"):
        # Another process may have removed it.
        with suppress(OSError):
            states.append(path.stat())
    last_use = max((state.st_mtime_ns for state in states), default=0)
    kind, predictions = "", 0
    # It is written anew with each use.
    with suppress(OSError, ValueError, KeyError, TypeError):
        last_use = (folder / MANIFEST).stat().st_mtime_ns
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        kind, predictions = manifest["fingerprint"]["kind"], manifest["predictions"]
    size = sum(state.st_size for state in states)
    return KeptTeacher(folder, size, last_use, _is_used(folder), kind, predictions)


@contextmanager
def _gate() -> Iterator[None]:
    """One process at a time: no cache is taken into use while it is being removed."""
    folder = teachers_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}{LOCK}")):
        yield


def _hold(folder: Path) -> None:
    if folder in _held:
        _held[folder][1][0] += 1
        return
    folder.mkdir(exist_ok=True)
    for stale in folder.glob(f"{_USE}*"):
        if not _is_locked(stale):
            stale.unlink(missing_ok=True)
    # A file for each process: an exclusive lock is what every system has.
    lock = FileLock(folder / f"{_USE}{os.getpid()}-{secrets.token_hex(4)}")
    lock.acquire()
    _held[folder] = (lock, [1])


def _release(folder: Path, process: int) -> None:
    """A store is gone. In a worker that was forked it is the other process's that goes on."""
    if os.getpid() != process or folder not in _held:
        return
    lock, count = _held[folder]
    count[0] -= 1
    if not count[0]:
        del _held[folder]
        with suppress(OSError):
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _is_used(folder: Path) -> bool:
    return any(_is_locked(mark) for mark in folder.glob(f"{_USE}*"))


def _is_locked(mark: Path) -> bool:
    lock = FileLock(mark)
    try:
        lock.acquire(blocking=False)
    except (Timeout, OSError):
        return True
    lock.release()
    return False


def _remove(folder: Path) -> None:
    """Out of the way at once, then gone; what a process that was killed has left goes too."""
    away = folder.with_name(f"{_REMOVED}{secrets.token_hex(4)}")
    with suppress(OSError):
        os.replace(folder, away)
    for path in folder.parent.glob(f"{_REMOVED}*"):
        shutil.rmtree(path, ignore_errors=True)
