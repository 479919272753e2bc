"""What watches a run: the forgetting budget, the starting weights, and the progress line."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from minifinetuning.errors import InputError, did_you_mean
from minifinetuning.training.trainer_options import require_warm_up_within

__all__ = [
    "Budget",
    "ProgressLine",
    "SamplerEpoch",
    "StartingPoint",
    "Stopwatch",
    "last_evaluation",
    "metric_name",
    "within_budget",
]

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


def last_evaluation(log: list[dict[str, float]]) -> dict[str, float]:
    """The last entry of a Trainer's log that measured gain; empty where none did."""
    return next((entry for entry in reversed(log) if "eval_specialization" in entry), {})


def metric_name(args: TrainingArguments) -> str:
    """The metric that the best step is chosen by, by the name that evaluations give it."""
    name = str(args.metric_for_best_model)
    return name if name.startswith("eval_") else f"eval_{name}"


class StartingPoint(TrainerCallback):  # type: ignore[misc]
    """Makes step 0 a candidate for the best checkpoint: training that only hurts changes nothing.

    `save` writes the starting weights into a folder, `metrics` gives what an evaluation of them
    would say. A metric without a value there, such as DG/S, makes any later step the better one.
    """

    def __init__(
        self, save: Callable[[Path], None], metrics: Callable[[], Mapping[str, float]]
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
        metrics, name = self.metrics(), metric_name(args)
        if metrics and name not in {*metrics, "eval_ratio"}:
            raise InputError(
                f"--metric_for_best_model {args.metric_for_best_model} is no metric of this run"
                f"{did_you_mean(name, metrics)}"
            )
        folder = Path(str(args.output_dir)) / "checkpoint-0"
        self.save(folder)
        value = metrics.get(name, math.nan)
        state.best_metric = None if math.isnan(value) else value
        state.best_model_checkpoint = str(folder)


class Stopwatch(TrainerCallback):  # type: ignore[misc]
    """Seconds and number of the optimizer steps of this call, evaluations and saving left out.

    A device works off a queue and the host runs ahead of it, so that one step's end says little.
    What is timed are stretches of steps between two pauses (an evaluation, a checkpoint, the end),
    at both ends of which `synchronize` waits until the device has done all that it was given. A
    stretch that was cut short (by an error, or a callback that evaluates itself) is left out.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        synchronize: Callable[[], None] | None = None,
    ) -> None:
        self.seconds = 0.0
        self.steps = 0
        self._clock = clock
        self._synchronize = synchronize
        self._start: float | None = None
        self._steps = 0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._start is None:
            self._start, self._steps = self._drained(args), 0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._steps += 1
        if control.should_evaluate or control.should_save or control.should_training_stop:
            self._close(args)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Evaluations and checkpoints by epoch follow."""
        self._close(args)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Drop a stretch that an evaluation fell into."""
        self._start = None

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Drop a stretch that a checkpoint fell into."""
        self._start = None

    def _close(self, args: TrainingArguments) -> None:
        if self._start is None:
            return
        self.seconds += self._drained(args) - self._start
        self.steps += self._steps
        self._start = None

    def _drained(self, args: TrainingArguments) -> float:
        """The time at which the device has nothing left to do."""
        if self._synchronize is not None:
            self._synchronize()
        elif args.device.type != "cpu":
            torch.accelerator.synchronize()
        return self._clock()


class SamplerEpoch(TrainerCallback):  # type: ignore[misc]
    """Tells the sampler of the training text its epoch, under however many wrappers it lies.

    accelerate looks for it under two. A run of several processes that is resumed within an epoch
    has three, and would go on in the order of the first epoch.
    """

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        batches: Any = getattr(train_dataloader, "batch_sampler", None)
        while hasattr(batches, "batch_sampler"):
            batches = batches.batch_sampler
        sampler: Any = getattr(batches, "sampler", None)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(int(state.epoch or 0))


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
