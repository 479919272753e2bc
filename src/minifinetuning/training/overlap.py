"""What a run writes may not be, hold or lie in what it reads."""

import glob
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from minifinetuning.errors import InputError
from minifinetuning.models.loading import adapter_base
from minifinetuning.teacher.plan import is_choice

__all__ = ["require_apart", "require_cache_apart", "require_outside"]

_INPUT_OPTIONS = (
    *("model", "tokenizer", "reference", "tuned"),
    *("data", "general", "replay", "corpora", "teacher_cache"),
)
"""The fields of the dataclasses of options that name what is read."""


def require_apart(output: Path, *options: object, option: str = "--output_dir") -> None:
    """Raise InputError where `output` is, holds or lies in an input that `options` name.

    `options` are dataclasses or mappings of options, or paths of files of options. Links, relative
    paths and a file system that takes no notice of case are seen through; what lies on a hub is
    passed over.
    """
    own = _lineage(output)
    for name, path in _inputs(options):
        if name.startswith(f"{option} "):
            continue
        other = _lineage(path)
        if own[0] in other[1:]:
            raise _error(option, output, "holds", name)
        _require_outside(own, other, option, output, name)


def require_cache_apart(*options: object) -> None:
    """The same for the folder of a teacher's cache, which is written as well as read."""
    for each in options:
        for folder in _cache(str(_fields(each).get("teacher_cache") or "none")):
            require_apart(folder, *options, option="--teacher_cache")


def require_outside(output: Path, checkpoint: Path) -> None:
    """The same for a checkpoint to go on from, which may lie in `output`."""
    named = f"--resume_from_checkpoint {checkpoint}"
    _require_outside(_lineage(output), _lineage(checkpoint), "--output_dir", output, named)


def _require_outside(
    own: list[object], other: list[object], option: str, output: Path, name: str
) -> None:
    if other[0] in own:
        raise _error(option, output, "is" if other[0] == own[0] else "lies in", name)


def _error(option: str, output: Path, relation: str, name: str) -> InputError:
    return InputError(
        f"{option} {output} {relation} {name}, which this run reads: name a place apart from it"
    )


def _inputs(options: tuple[object, ...]) -> Iterator[tuple[str, Path]]:
    """Each input as a person named it, and a path that it stands for."""
    for each in options:
        if isinstance(each, Path):
            yield f"the file of options {each}", each
            continue
        for name in _INPUT_OPTIONS:
            value = _fields(each).get(name) or []
            for source in value if isinstance(value, list) else [value]:
                for path in _cache(str(source)) if name == "teacher_cache" else _paths(str(source)):
                    yield f"--{name} {source}", path
                    with suppress(InputError):
                        if (base := adapter_base(str(path))) is not None:
                            yield f"the base model {base} of --{name}", Path(base)


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


def _cache(named: str) -> list[Path]:
    """The folder of a teacher's cache, which may still have to be made."""
    return [] if named == "none" or is_choice(named) else [Path(named).expanduser()]


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
