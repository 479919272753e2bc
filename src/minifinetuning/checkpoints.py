"""The checkpoints of a run: which of them can be gone on from."""

import json
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from minifinetuning.errors import InputError

__all__ = ["last_complete_checkpoint", "require_checkpoint"]


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the highest step that is whole: its state, written last, can be read."""
    found = []
    for state in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*/trainer_state.json"):
        try:
            found.append((int(json.loads(state.read_text())["global_step"]), state.parent))
        except (ValueError, KeyError):
            continue
    return max(found)[1] if found else None


def require_checkpoint(folder: Path) -> Path:
    """The last whole checkpoint in `folder`. Raises InputError where there is none."""
    found = last_complete_checkpoint(folder)
    if found is None:
        raise InputError(f"--output_dir {folder} holds no whole checkpoint to resume from")
    return found
