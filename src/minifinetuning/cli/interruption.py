"""What a person who has interrupted a verb is told: how to go on."""

from pathlib import Path
from typing import Any

__all__ = ["how_to_go_on"]

_KEPT = {
    "cache": "the same command goes on with what is missing of the cache",
    "compare": "the same command goes on with the cells that are not done in {folder}",
    "reproduce": "the same command goes on with the cells that are not done in {folder}",
}


def how_to_go_on(verb: str, options: tuple[Any, ...]) -> str:
    """One line; `options` are the dataclasses of the verb, none where they were not read yet."""
    folder = next((Path(str(o.output_dir)) for o in options if hasattr(o, "output_dir")), None)
    if verb in _KEPT and options:
        return _KEPT[verb].format(folder=folder)
    if verb in ("train", "prepare-reference") and folder is not None:
        return _of_run(folder)
    return "nothing is kept, the same command starts again"


def _of_run(folder: Path) -> str:
    """Where a run of several steps can be gone on with."""
    from minifinetuning.errors import InputError
    from minifinetuning.training.resuming import checkpoint_to_resume

    try:
        checkpoint = checkpoint_to_resume(True, folder, thoroughly=False)
    except InputError:
        if folder.is_dir() and any(folder.iterdir()):
            return "the same command with --overwrite_output_dir starts again"
        return "nothing is kept, the same command starts again"
    where = "starts again" if checkpoint is None else f"goes on from {checkpoint}"
    return f"the same command with --resume_from_checkpoint True {where}"
