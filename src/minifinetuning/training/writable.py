"""Where a run may write: apart from what it reads, and where the disk has room and permits it."""

import errno
import glob
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import disk_usage
from typing import Any

from minifinetuning.errors import InputError
from minifinetuning.models.loading import adapter_base
from minifinetuning.teacher.fingerprint import format_bytes
from minifinetuning.teacher.plan import is_choice

__all__ = [
    "naming_what_fails",
    "not_writable",
    "require_apart",
    "require_cache_apart",
    "require_outside",
    "require_space",
]

_MODELS = ("model", "tokenizer", "reference", "tuned")
_TEXTS = ("data", "general", "replay", "corpora")
"""The fields of the dataclasses of options that name what is read."""

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# safetensors and torch tell of what the system said in words only.
_WORDS_OF_NO_SPACE = ("No space left on device", "Disk quota exceeded", "File too large")
_NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_SUCH_PLACE = (errno.ENOTDIR, errno.ENAMETOOLONG, errno.EIO, errno.ESTALE)


def require_apart(output: Path, *options: object, option: str = "--output_dir") -> None:
    """Raise InputError where `output` is, holds or lies in an input that `options` name.

    `options` are dataclasses or mappings of options, or paths of files of options. Links, relative
    paths and a file system that takes no notice of case are seen through; what lies on a hub is
    passed over.
    """
    own = _lineage(output)
    for name, path in _inputs(options):
        relation = _relation(own, _lineage(path))
        if relation is not None and not name.startswith(f"{option} "):
            raise _error(option, output, relation, name)


def require_cache_apart(*options: object) -> None:
    """The same for the folder of a teacher's cache, which is written as well as read."""
    for each in options:
        for folder in _cache(_fields(each)):
            require_apart(folder, *options, option="--teacher_cache")


def require_outside(output: Path, checkpoint: Path) -> None:
    """The same for a checkpoint to go on from, which may lie in `output`."""
    relation = _relation(_lineage(output), _lineage(checkpoint))
    if relation in ("is", "lies in"):
        named = f"--resume_from_checkpoint {checkpoint}"
        raise _error("--output_dir", output, relation, named)


def _error(option: str, output: Path, relation: str, name: str) -> InputError:
    return InputError(
        f"{option} {output} {relation} {name}, which this run reads: name a place apart from it"
    )


def _inputs(options: tuple[object, ...]) -> Iterator[tuple[str, Path]]:
    """Each input as a person named it, and a path that it stands for."""
    for each in options:
        if isinstance(each, Path):
            yield f"the file of options {each}", each
        fields = _fields(each)
        for name in (*_MODELS, *_TEXTS):
            value = fields.get(name) or []
            for source in value if isinstance(value, list) else [value]:
                for path in _paths(str(source)):
                    yield f"--{name} {source}", path
                    with suppress(InputError):
                        if (base := adapter_base(str(path))) is not None:
                            yield f"the base model {base} of --{name}", Path(base)
        for folder in _cache(fields):
            yield f"--teacher_cache {fields['teacher_cache']}", folder


def _fields(options: object) -> Mapping[str, Any]:
    if isinstance(options, Path):
        return {}
    return options if isinstance(options, Mapping) else vars(options)


def _paths(source: str) -> list[Path]:
    """The path, or what a pattern matches; nothing for a name of the hub, or what is not there."""
    path = os.path.expanduser(source)
    if os.path.lexists(path):
        return [Path(path)]
    return [Path(match) for match in glob.iglob(path, recursive=True)]


def _cache(fields: Mapping[str, Any]) -> list[Path]:
    """The folder of a teacher's cache, where one is named; it may still have to be made."""
    named = str(fields.get("teacher_cache") or "none")
    return [] if named == "none" or is_choice(named) else [Path(named).expanduser()]


def _relation(own: list[object], other: list[object]) -> str | None:
    """How the path of one lineage stands to that of another; None where they are apart."""
    if own[0] == other[0]:
        return "is"
    if own[0] in other:
        return "holds"
    return "lies in" if other[0] in own else None


def _lineage(path: Path) -> list[object]:
    """What tells a path from every other, and then so for each folder above it."""
    try:
        resolved = path.expanduser().resolve()
    except (OSError, RuntimeError):  # links in a circle
        resolved = path.absolute()
    return [_identity(each) for each in (resolved, *resolved.parents)]


def _identity(path: Path) -> object:
    try:
        state = path.stat()
    except (OSError, ValueError):
        return str(path)
    return state.st_dev, state.st_ino


def require_space(folder: Path, needed: int) -> None:
    """Raise InputError where the disk of `folder` has fewer bytes free than will be needed."""
    free = disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"--output_dir {folder}: what will be written there takes {format_bytes(needed)} or "
            f"more, and its disk has {format_bytes(free)} free: free some, or name a folder on "
            "another disk"
        )


@contextmanager
def naming_what_fails(folder: Path) -> Iterator[None]:
    """Raise InputError in place of what the file system refuses to a block that fills `folder`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if _is_no_space(error):
            raise InputError(
                f"no space left while writing to {folder}: free some, or name a folder on another "
                "disk"
            ) from error
        if isinstance(error, OSError) and _is_refusal(error, folder):
            raise not_writable(folder, error) from error
        raise


def not_writable(path: Path, error: OSError, option: str = "--output_dir") -> InputError:
    """Why nothing can be written there."""
    reason = error.strerror or " ".join(str(error).split())[:200]
    return InputError(f"{option} {path} cannot be written ({reason}): name another place")


def _is_no_space(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _NO_SPACE
    words = str(error)
    if "inline_container.cc" in words:  # torch's reader and writer of checkpoints
        return "Reader" not in words
    return any(known in words for known in _WORDS_OF_NO_SPACE)


def _is_refusal(error: OSError, folder: Path) -> bool:
    """Whether it is about a file in the folder: one that is read has an error of its own."""
    is_known = error.errno in _NO_PERMISSION or error.errno in _NO_SUCH_PLACE
    if not is_known or not isinstance(error.filename, str | os.PathLike):
        return False
    return Path(error.filename).absolute().is_relative_to(folder.absolute())
