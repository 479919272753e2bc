"""Which step of a run is kept, and when a run stops: the metric, the budget, the start."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from minifinetuning.errors import InputError
from minifinetuning.evaluation.comparison import measurements
from minifinetuning.evaluation.scores import SPECIALIZED, Scores
from minifinetuning.training.checkpoints import checkpoint_folder, damage
from minifinetuning.training.config import SELECTION
from minifinetuning.training.trainer_options import require_warm_up_within

__all__ = [
    "Budget",
    "StartingPoint",
    "best_step",
    "comparable",
    "last_evaluation",
    "metric_name",
    "selection_perplexity",
    "starting_metrics",
    "within_budget",
]

logger = logging.getLogger(__name__)

_PERPLEXITY = f"eval_{SPECIALIZED}_perplexity"


def within_budget(degeneralization: float | None, limit: float | None) -> bool:
    """Whether DG (%) respects the budget; without a budget or a DG there is nothing to break."""
    return limit is None or degeneralization is None or degeneralization <= limit


def metric_name(args: TrainingArguments) -> str:
    """The metric that the best step is chosen by, by the name that evaluations give it."""
    name = str(args.metric_for_best_model)
    return name if name.startswith("eval_") else f"eval_{name}"


def selection_perplexity(
    values: Mapping[str, float], limit: float | None, *, is_saved: bool
) -> float:
    """What the best step is chosen by, of an evaluation's `values`: the specialized perplexity.

    Infinite where the step cannot be kept: DG is above the `limit` (%), or nothing is saved.
    """
    can_be_kept = is_saved and within_budget(values.get("degeneralization"), limit)
    return values[f"{SPECIALIZED}_perplexity"] if can_be_kept else math.inf


def comparable(
    metrics: dict[str, float], args: TrainingArguments, *, is_saved: bool
) -> dict[str, float]:
    """An evaluation for the choice of the best step: nan, never better, where it cannot be kept."""
    chosen = metric_name(args)
    if chosen == SELECTION or (is_saved and chosen in metrics):
        return metrics
    return {**metrics, chosen: math.nan}


def starting_metrics(reference: Scores | None) -> dict[str, float]:
    """Those of step 0, which is saved whatever --save_steps says; none without a reference."""
    if reference is None:
        return {}
    values = measurements(reference, reference)
    values["selection_perplexity"] = values[f"{SPECIALIZED}_perplexity"]
    return {f"eval_{name}": value for name, value in values.items()}


def best_step(
    log: Sequence[Mapping[str, Any]], folder: Path, start: float, limit: float | None
) -> tuple[Path, float]:
    """The checkpoint of least specialized perplexity, and that, among the steps within the budget.

    `log` has the evaluations of the steps so far, `start` is the perplexity of step 0, and `limit`
    the DG (%) that is allowed now: an earlier part of the run may have had another. A step whose
    checkpoint is not in `folder`, whole, cannot be kept; the start always can: its weights are
    those that the model still has when a run is resumed.
    """
    candidates = [(start, 0)]
    for entry in log:
        if _PERPLEXITY in entry and within_budget(entry.get("eval_degeneralization"), limit):
            candidates.append((float(entry[_PERPLEXITY]), int(entry["step"])))
    for perplexity, step in sorted(candidates):
        path = checkpoint_folder(folder, step)
        if step == 0 or (perplexity < start and damage(path) is None):
            return path, perplexity
    return checkpoint_folder(folder, 0), start


def last_evaluation(log: list[dict[str, float]]) -> dict[str, float]:
    """The last entry of a Trainer's log that measured gain; empty where none did."""
    return next((entry for entry in reversed(log) if "eval_specialization" in entry), {})


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

    def reaches_target(self, values: Mapping[str, float]) -> bool:
        """Whether S, `values["specialization"]` in %, is what the run was to gain."""
        gained = values.get("specialization")
        target = self.target_specialization
        return target is not None and gained is not None and gained >= target

    def reason_to_stop(self, metrics: Mapping[str, float]) -> str | None:
        """Why a run with these metrics of an evaluation has ended, if it has."""
        lost = metrics.get("eval_degeneralization")
        gained = metrics.get("eval_specialization")
        if not within_budget(lost, self.max_degeneralization):
            return f"DG {lost:.2f} % is above the budget of {self.max_degeneralization} %"
        if gained is not None and self.reaches_target({"specialization": gained}):
            return f"S {gained:.2f} % has reached the target of {self.target_specialization} %"
        return None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop a resumed run at once where its last evaluation had already stopped it."""
        self.on_evaluate(args, state, control, last_evaluation(state.log_history))

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        reason = self.reason_to_stop(metrics or {})
        if reason is not None:
            self.reason = reason
            logger.warning("stopped at step %d: %s", state.global_step, self.reason)
            control.should_training_stop = True


class StartingPoint(TrainerCallback):  # type: ignore[misc]
    """Makes step 0 a candidate for the best checkpoint: training that only hurts changes nothing.

    `save` writes the starting weights as a checkpoint, `metrics` gives what an evaluation of them
    would say. A metric without a value there, such as DG/S, makes any later step the better one.
    """

    def __init__(
        self, save: Callable[[], None], metrics: Callable[[], Mapping[str, float]]
    ) -> None:
        self.save, self.metrics = save, metrics

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not args.load_best_model_at_end or state.global_step > 0:
            return
        if args.eval_strategy == "steps" and 0 < state.max_steps < state.eval_steps:
            raise InputError(
                f"--eval_steps {state.eval_steps:g} is above the {state.max_steps} steps of this "
                "run: no step would be measured and kept, lower it"
            )
        require_warm_up_within(args, state.max_steps)
        self.save()
        value = self.metrics().get(metric_name(args), math.nan)
        state.best_metric = None if math.isnan(value) else value
        state.best_model_checkpoint = str(checkpoint_folder(Path(str(args.output_dir)), 0))
