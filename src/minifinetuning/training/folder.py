"""The folder that a verb writes: locked for one run, other files kept, filled in one step."""

import glob
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from tempfile import NamedTemporaryFile

from minifinetuning.errors import InputError
from minifinetuning.files import LOCK, locked, printable, read_json
from minifinetuning.training.checkpoints import checkpoints, manifest_of
from minifinetuning.training.config import MFTConfig
from minifinetuning.training.manifest import MANIFEST, RESULT, Manifest, is_by_a_run, matching
from minifinetuning.training.resuming import asked_checkpoint, checkpoint_to_resume
from minifinetuning.training.same_training import require_same_settings
from minifinetuning.training.writable import (
    naming_what_fails,
    not_writable,
    require_apart,
    require_cache_apart,
    require_outside,
    require_space,
)

__all__ = [
    "begin_run",
    "new_folder",
    "output_folder",
    "published",
    "remove_checkpoints",
    "report_folder",
    "require_writable",
    "run_folder",
]

logger = logging.getLogger(__name__)

_STAGED = ".result-incomplete"
_OURS = (LOCK, MANIFEST, ".result-*")
"""What lies in a folder that holds no result yet."""


@contextmanager
def run_folder(training: MFTConfig, *options: object) -> Iterator[None]:
    """Keep `training.output_dir` for this run until the block ends; what is there stays as it is.

    `options` name what the run reads. Raises InputError, before anything is removed or read, where
    the folder is, holds or lies in an input, cannot be written, is another run's at the moment,
    is not empty though nobody asked to replace or to resume what is there, or holds files that no
    run wrote by the names that this one will write. Blocks may be nested.
    """
    folder = Path(str(training.output_dir))
    if training.process_index > 0:
        # The first process speaks for all: the others could meet what it has written by then.
        yield
        return
    resume = asked_checkpoint(training.resume_from_checkpoint)
    if isinstance(resume, str) and os.path.isdir(resume):
        require_outside(folder, Path(resume))
    with output_folder(folder, *options):
        if not (resume or training.overwrite_output_dir):
            _require_empty(
                folder,
                "pass --overwrite_output_dir to replace a previous run, "
                "--resume_from_checkpoint True to continue it, or another folder",
            )
        _require_own(folder, Manifest.of(folder).foreign(RESULT))
        if not resume:
            found = sorted(folder.glob("checkpoint-*"))
            _require_own(folder, [path.name for path in found if not is_by_a_run(path)])
        checkpoint = checkpoint_to_resume(resume, folder, training, thoroughly=False)
        if checkpoint is not None:
            require_same_settings(checkpoint, training)
        freed = 0 if resume else _bytes_of_checkpoints(folder)
        require_space(folder, _least_bytes(training, options) - freed)
        (folder / LOCK).touch()
        start = (folder / LOCK).stat().st_mtime_ns
        try:
            yield
        except BaseException:
            _remove_unfinished(folder, start)
            raise


@contextmanager
def new_folder(folder: Path, *options: object) -> Iterator[None]:
    """`output_folder` for one that must not hold anything yet."""
    with output_folder(folder, *options):
        _require_empty(folder, "name another folder, or empty it")
        yield


@contextmanager
def report_folder(
    folder: Path, names: tuple[str, ...], *options: object, older: tuple[str, str]
) -> Iterator[None]:
    """`output_folder` for a verb that goes on where it was: `names`, patterns, are what it writes.

    Raises InputError where a file of such a name is somebody else's. `older`, a pattern and an
    entry of the JSON files that fit it, tells a folder that a version before 0.2 has written.
    """
    with output_folder(folder, *options):
        manifest = Manifest.of(folder)
        if not _holds(folder, *older):
            _require_own(folder, manifest.foreign(names))
        reports = tuple(dict.fromkeys((*manifest.reports, *names)))
        if reports != manifest.reports:
            replace(manifest, reports=reports).write()
        yield


@contextmanager
def output_folder(folder: Path, *options: object) -> Iterator[None]:
    """Make `folder`, and keep it for this process alone until the block ends.

    A folder in which nothing came to lie is removed again, with those above it that were made.
    What the file system refuses, a full disk above all, becomes one sentence.
    """
    if printable(folder) != str(folder):
        raise InputError(
            f"--output_dir {printable(folder)}: the name holds bytes that are no UTF-8, by "
            "which no tokenizer can be saved: choose another"
        )
    require_apart(folder, *options)
    require_cache_apart(*options)
    with _removed_if_empty(folder), naming_what_fails(folder):
        if folder.is_file():
            raise InputError(f"--output_dir {folder} is a file: name a folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise not_writable(folder, error) from error
        with locked(folder):
            yield


def require_writable(file: Path, *options: object) -> None:
    """Raise InputError where the file of `--output` cannot be written, or is or lies in an input.

    One that is there is replaced only where it holds figures of ours, or nothing.
    """
    require_apart(file, *options, option="--output")
    if file.is_dir():
        raise InputError(f"--output {file} is a folder: name a file in it")
    is_empty = file.is_file() and not file.stat().st_size
    is_ours = _holds(file.parent, glob.escape(file.name), "specialization")
    if os.path.lexists(file) and not (is_empty or is_ours):
        raise InputError(f"--output {file} holds no figures of ours: name another file")
    with _removed_if_empty(file.parent):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}."):
                pass
        except OSError as error:
            raise not_writable(file, error, option="--output") from error


def begin_run(folder: Path, *, resume: bool) -> None:
    """Mark the folder as a run's, and remove the checkpoints of an earlier one, if it is a new run.

    To be called once nothing that can be known is in the way of the training.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not resume:
        remove_checkpoints(folder)
    manifest = Manifest.of(folder)
    if not manifest.is_written:
        manifest.write()


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints that a run wrote."""
    for checkpoint in sorted(folder.glob("checkpoint-*")):
        if is_by_a_run(checkpoint):
            shutil.rmtree(checkpoint)


@contextmanager
def published(folder: Path) -> Iterator[Path]:
    """A folder to fill, whose files take the place of an earlier run's in `folder` once whole.

    By renaming, metrics.json at the very end. Nothing of it is left where an exception ends the
    block. A file of somebody else's that came to be in the way meanwhile is renamed, not replaced.
    """
    staged = folder / _STAGED
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        with naming_what_fails(folder):
            yield staged
            _move(staged, folder, last="metrics.json")
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _move(staged: Path, folder: Path, last: str) -> None:
    # safetensors writes files that nobody else may read: weights get the mode of other files.
    mode = (staged / last).stat().st_mode
    names = sorted((path.name for path in staged.iterdir()), key=lambda name: name == last)
    for name in names:
        if (staged / name).is_file():
            (staged / name).chmod(mode)
    manifest = Manifest.of(folder)
    # What says that the result is whole goes first, and comes last.
    for name in sorted(manifest.own_files, key=lambda name: name != last):
        (folder / name).unlink()
    manifest.with_files(staged).write()
    for name in names:
        _set_aside(folder / name)
        os.replace(staged / name, folder / name)


def _set_aside(path: Path) -> None:
    if not os.path.lexists(path):
        return
    number = 1
    while os.path.lexists(kept := path.with_name(f"{path.name}.{number}")):
        number += 1
    os.replace(path, kept)
    logger.warning("%s was not written by a run: it is kept as %s", path, kept.name)


def _least_bytes(training: MFTConfig, options: tuple[object, ...]) -> int:
    """What a run of a whole model will at least write, where the model lies here.

    The result, and the starting weights as the first checkpoint.
    """
    fields = {name: value for each in options for name, value in vars(each).items()}
    place = Path(str(fields.get("model"))).expanduser()
    if fields.get("adapter") or fields.get("dtype") or not place.is_dir():
        return 0
    stored = sum(path.stat().st_size for path in place.glob("model*.safetensors"))
    is_new = training.load_best_model_at_end and not training.resume_from_checkpoint
    return 2 * stored if is_new else stored


def _bytes_of_checkpoints(folder: Path) -> int:
    files = (path for checkpoint in checkpoints(folder) for path in checkpoint.rglob("*"))
    return sum(path.stat().st_size for path in files if path.is_file())


def _remove_unfinished(folder: Path, start: int) -> None:
    """Remove the checkpoint that a run was writing when it failed.

    What an older version has written has no manifest either, but is from before the start.
    """
    for checkpoint in checkpoints(folder):
        if manifest_of(checkpoint) is None and checkpoint.stat().st_mtime_ns >= start:
            shutil.rmtree(checkpoint, ignore_errors=True)


def _require_empty(folder: Path, advice: str) -> None:
    inside = {path.name for path in folder.iterdir()}
    if inside - set(matching(folder, _OURS)):
        raise InputError(f"--output_dir {folder} is not empty: {advice}")


def _require_own(folder: Path, foreign: list[str]) -> None:
    if foreign:
        others = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise InputError(
            f"--output_dir {folder} holds {foreign[0]}{others}, which no run wrote or which was "
            "changed since: move that away, or name another folder"
        )


def _holds(folder: Path, pattern: str, entry: str) -> bool:
    """Whether one of the JSON files that fit the pattern has this entry."""
    contents = (read_json(path) for path in folder.glob(pattern))
    return any(isinstance(content, dict) and entry in content for content in contents)


@contextmanager
def _removed_if_empty(folder: Path) -> Iterator[None]:
    """Remove the folders that the block makes up to this one, if nothing came to lie in them."""
    missing = takewhile(lambda path: not os.path.lexists(path), (folder, *folder.parents))
    made = list(missing)
    try:
        yield
    finally:
        with suppress(OSError):
            Manifest.of(folder).remove_if_unused()
            for path in made:
                path.rmdir()
