"""What watches a run: the forgetting budget, the starting weights, and the progress line."""

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import (
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

__all__ = ["Budget", "ProgressLine", "StartingPoint", "Stopwatch", "within_budget"]

logger = logging.getLogger(__name__)


def within_budget(degeneralization: float | None, limit: float | None) -> bool:
    """Whether DG (%) respects the budget; without a budget or a DG there is nothing to break."""
    return limit is None or degeneralization is None or degeneralization <= limit


class Budget(TrainerCallback):  # type: ignore[misc]
    """Stops once DG is above `max_degeneralization` or S has reached `target_specialization`.

    Both are in %. Which checkpoint is kept is not decided here: one that broke the budget has an
    infinite `eval_selection_perplexity` and is never the best. `reason` says why the run stopped.
    """

    def __init__(
        self, max_degeneralization: float | None, target_specialization: float | None
    ) -> None:
        self.max_degeneralization = max_degeneralization
        self.target_specialization = target_specialization
        self.reason: str | None = None

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        metrics = metrics or {}
        lost = metrics.get("eval_degeneralization")
        gained = metrics.get("eval_specialization")
        if not within_budget(lost, self.max_degeneralization):
            self.reason = f"DG {lost:.2f} % is above the budget of {self.max_degeneralization} %"
        elif self.target_specialization and gained and gained >= self.target_specialization:
            self.reason = (
                f"S {gained:.2f} % has reached the target of {self.target_specialization} %"
            )
        else:
            return
        logger.warning("stopped at step %d: %s", state.global_step, self.reason)
        control.should_training_stop = True


class StartingPoint(TrainerCallback):  # type: ignore[misc]
    """Makes step 0 a candidate for the best checkpoint: training that only hurts changes nothing.

    `save` writes the starting weights into a folder, `perplexity` gives theirs on specialized text.
    """

    def __init__(self, save: Callable[[Path], None], perplexity: Callable[[], float]) -> None:
        self.save, self.perplexity = save, perplexity

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not args.load_best_model_at_end or state.global_step > 0:
            return
        folder = Path(str(args.output_dir)) / "checkpoint-0"
        self.save(folder)
        state.best_metric = self.perplexity()
        state.best_model_checkpoint = str(folder)


class Stopwatch(TrainerCallback):  # type: ignore[misc]
    """Seconds and number of the optimizer steps of this call, evaluations and saving left out."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.steps = 0
        self._start = 0.0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._start = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.seconds += time.perf_counter() - self._start
        self.steps += 1


class ProgressLine(ProgressCallback):  # type: ignore[misc]
    """transformers' progress bar with the latest loss, S, DG and DG/S at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: dict[str, str] = {}

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the latest values in place of a line per log entry."""
        if not state.is_world_process_zero or self.training_bar is None or logs is None:
            return
        for name, label, form in _SHOWN:
            value = logs.get(name)
            if value is not None and math.isfinite(value):
                self.shown[label] = format(value, form)
        self.training_bar.set_postfix(self.shown)


_SHOWN = (
    ("loss", "loss", ".3f"),
    ("eval_specialization", "S%", ".2f"),
    ("eval_degeneralization", "DG%", ".2f"),
    ("eval_ratio", "DG/S", ".3f"),
    ("eval_forward_kl", "KL", ".4f"),
)
