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
        from minifinetuning.checkpoints import last_complete_checkpoint

        checkpoint = last_complete_checkpoint(folder)
        if checkpoint is not None:
            return f"the same command with --resume_from_checkpoint True goes on from {checkpoint}"
        if folder.is_dir() and any(folder.iterdir()):
            return "the same command with --overwrite_output_dir starts again"
    return "nothing is kept, the same command starts again"
