"""Which step of a run that goes on is the best so far, under the budget that it goes on with."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from minifinetuning.evaluation.scores import SPECIALIZED
from minifinetuning.training.callbacks import within_budget
from minifinetuning.training.checkpoints import damage, starting_point

__all__ = ["best_step", "logged_steps"]

_PERPLEXITY = f"eval_{SPECIALIZED}_perplexity"


def best_step(
    log: Sequence[Mapping[str, Any]], folder: Path, start: float, limit: float | None
) -> tuple[Path, float]:
    """The checkpoint of least specialized perplexity, and that, among the steps within the budget.

    `log` has the evaluations of the steps so far, `start` is the perplexity of step 0, and `limit`
    the DG (%) that is allowed now: an earlier part of the run may have had another. A step whose
    checkpoint is not in `folder`, whole, cannot be kept; the start always can, see
    `CheckpointingTrainer`.
    """
    candidates = [(start, 0)]
    for entry in log:
        if _PERPLEXITY in entry and within_budget(entry.get("eval_degeneralization"), limit):
            candidates.append((float(entry[_PERPLEXITY]), int(entry["step"])))
    for perplexity, step in sorted(candidates):
        path = folder / f"{PREFIX_CHECKPOINT_DIR}-{step}"
        if step == 0 or (perplexity < start and damage(path) is None):
            return path, perplexity
    return starting_point(folder), start


def logged_steps(state: Path) -> list[dict[str, Any]]:
    """The log of a run, from a file of its state; empty where there is none."""
    try:
        log: list[dict[str, Any]] = json.loads(state.read_text(encoding="utf-8"))["log_history"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return log
