"""The folder of a run: refused or cleared at the start, filled whole at the end."""

import os
import shutil
from pathlib import Path

from minifinetuning.errors import InputError

__all__ = ["prepare_folder", "publish"]

_OWN_PATTERNS = (
    "checkpoint-*",
    "model*.safetensors",
    "model.safetensors.index.json",
    "adapter_model*.safetensors",
    "adapter_config.json",
    "config.json",
    "generation_config.json",
    "metrics.json",
    "README.md",
    ".result-*",
)


def prepare_folder(folder: Path, *, overwrite: bool, resume: bool) -> None:
    """Make sure that a run may write into `folder`: nothing of an earlier one is mixed in.

    With `overwrite` what an earlier run wrote is removed, and no other file. Raises InputError
    where the folder is not empty and neither `overwrite` nor `resume` is asked for.
    """
    if folder.is_file():
        raise InputError(f"--output_dir {folder} is a file: name a folder")
    if resume or not folder.exists() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise InputError(
            f"--output_dir {folder} is not empty: pass --overwrite_output_dir to replace a "
            "previous run, --resume_from_checkpoint True to continue it, or another folder"
        )
    for pattern in _OWN_PATTERNS:
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def publish(staged: Path, folder: Path, last: str = "metrics.json") -> None:
    """Move the files of `staged` into `folder` one by one, by renaming, `last` at the very end."""
    folder.mkdir(parents=True, exist_ok=True)
    # safetensors writes files that nobody else may read: weights get the mode of other files.
    mode = (staged / last).stat().st_mode
    for path in sorted(staged.iterdir(), key=lambda path: path.name == last):
        if path.is_file():
            path.chmod(mode)
        os.replace(path, folder / path.name)
    staged.rmdir()
