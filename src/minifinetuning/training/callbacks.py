"""Callbacks of a run: the time that steps take, the sampler's epoch, the progress line."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

__all__ = ["ProgressLine", "SamplerEpoch", "Stopwatch"]


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

    def on_step_begin(self, args: TrainingArguments, *others: Any, **kwargs: Any) -> None:
        if self._start is None:
            self._start, self._steps = self._drained(args), 0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._steps += 1
        if control.should_evaluate or control.should_save or control.should_training_stop:
            self._close(args)

    def on_epoch_end(self, args: TrainingArguments, *others: Any, **kwargs: Any) -> None:
        """Evaluations and checkpoints by epoch follow."""
        self._close(args)

    def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Drop a stretch that an evaluation fell into."""
        self._start = None

    def on_save(self, *args: Any, **kwargs: Any) -> None:
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
