"""The checkpoints of a run: what each is to hold, which of them is whole, which are kept."""

import shutil
import zlib
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from minifinetuning.files import read_json, write_atomically

__all__ = [
    "FINAL_STATE",
    "MANIFEST",
    "best_of",
    "checkpoint_folder",
    "checkpoints",
    "damage",
    "flaw",
    "last_complete_checkpoint",
    "manifest_of",
    "remove_older",
    "state_in",
    "write_manifest",
]

MANIFEST = "checkpoint.json"
"""Written last: a checkpoint without it was not written whole."""

FINAL_STATE = "final_state.json"
"""In the best checkpoint of a run that has ended, where the last one is not kept: how it ended."""

FORMAT = 1

_CHUNK = 2**24


def write_manifest(folder: Path, step: int, training: dict[str, Any], *, resumable: bool) -> None:
    """Write down what the checkpoint holds, which has to be there whole by now.

    `checkpoint.json` has the `step`, whether the optimizer's state is there (`resumable`), what is
    trained (`training`, see `resuming`), and of each file its size in bytes and its CRC-32.
    """
    files = {
        str(path.relative_to(folder)): [path.stat().st_size, _checksum(path)]
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST and not path.name.startswith(".")
    }
    content = {"format": FORMAT, "step": step, "resumable": resumable, "training": training}
    write_atomically(folder / MANIFEST, content | {"files": files})


def manifest_of(folder: Path) -> dict[str, Any] | None:
    """The content of checkpoint.json; None where there is none that can be read."""
    content = read_json(folder / MANIFEST)
    if not (isinstance(content, dict) and content.get("format") == FORMAT):
        return None
    known = isinstance(content.get("step"), int) and isinstance(content.get("files"), dict)
    return content if known and "resumable" in content else None


def flaw(folder: Path, *, thoroughly: bool = True) -> str | None:
    """What is wrong with the checkpoint in `folder`, if anything: a clause about it.

    Each file has to be there with its size and, where `thoroughly`, its checksum, for which all of
    it is read; and so have those of the best checkpoint, which the run may end with.
    """
    found = damage(folder, thoroughly=thoroughly)
    best = best_of(folder)
    if found is None and best is not None and best.name != folder.name:
        found = damage(best, thoroughly=thoroughly)
        return None if found is None else f"{best.name}, the best until then, is not whole: {found}"
    return found


def damage(folder: Path, *, thoroughly: bool = True) -> str | None:
    """What is wrong with the files of this checkpoint alone, if anything: a clause about it."""
    manifest = manifest_of(folder)
    if manifest is None:
        return f"it has no {MANIFEST} that can be read, so it was not written whole"
    for name, (size, checksum) in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            return f"its {name} is missing"
        if path.stat().st_size != size:
            return f"its {name} has {path.stat().st_size:,} bytes and should have {size:,}"
        if thoroughly and _checksum(path) != checksum:
            return f"its {name} is damaged (another checksum)"
    return None


def state_in(file: Path) -> dict[str, Any]:
    """What a file of a Trainer's state holds; empty where there is none that can be read."""
    state = read_json(file)
    return state if isinstance(state, dict) else {}


def best_of(folder: Path) -> Path | None:
    """The best checkpoint when that of `folder` was written; it lies beside it."""
    best = state_in(folder / TRAINER_STATE_NAME).get("best_model_checkpoint")
    return folder.parent / Path(best).name if best else None


def checkpoints(folder: Path) -> list[Path]:
    """The folders named checkpoint-N in `folder`, whole or not, the highest step first."""
    found = []
    for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if path.is_dir() and step.isdecimal():
            found.append((int(step), path))
    return [path for _, path in sorted(found, reverse=True)]


def checkpoint_folder(folder: Path, step: int) -> Path:
    """Where a run in `folder` keeps the weights of a step; step 0 are those that it starts from."""
    return folder / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the highest step after the start that is whole, by the sizes of files."""
    later = (path for path in checkpoints(folder) if path != checkpoint_folder(folder, 0))
    return next((path for path in later if flaw(path, thoroughly=False) is None), None)


def remove_older(
    folder: Path, limit: int | None, best: Path | None, *, has_ended: bool = False
) -> None:
    """Remove the checkpoints in `folder` beyond a `limit` (--save_total_limit); None keeps all.

    The newest, which a run goes on from, and the best, which it may end with, stay; of a run that
    has ended and was to keep one, the best alone.
    """
    if not has_ended:
        rotate_checkpoints(str(folder), limit, None if best is None else str(best), use_mtime=True)
    elif limit == 1 and best is not None:
        for path in checkpoints(folder):
            if path.name != best.name:
                shutil.rmtree(path, ignore_errors=True)


def _checksum(path: Path) -> int:
    """CRC-32: damage is to be noticed, nobody is to be kept from it."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return value
