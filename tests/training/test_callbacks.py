"""The callbacks alone, on states and metrics made by hand."""

import math
from types import SimpleNamespace

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, SeedableRandomSampler, SkipBatchSampler
from torch.utils.data import BatchSampler
from transformers import TrainerControl, TrainerState

from minifinetuning.data.mixing import MixedOrder, Mixture
from minifinetuning.errors import InputError
from minifinetuning.training.callbacks import (
    Budget,
    ProgressLine,
    SamplerEpoch,
    StartingPoint,
    Stopwatch,
    within_budget,
)


@pytest.mark.parametrize(
    ("lost", "limit", "holds"),
    [
        (1.0, None, True),
        (None, 2.0, True),
        (2.0, 2.0, True),
        (2.001, 2.0, False),
        (-5.0, 2.0, True),
        (math.inf, 2.0, False),
        (math.nan, 2.0, False),
    ],
)
def test_the_budget_holds_up_to_its_limit(lost, limit, holds):
    assert within_budget(lost, limit) is holds


@pytest.mark.parametrize(
    ("limits", "metrics", "reason"),
    [
        ((2.0, None), {"eval_degeneralization": 2.5}, "DG 2.50 % is above the budget of 2.0 %"),
        ((2.0, None), {"eval_degeneralization": 1.5}, None),
        ((2.0, None), {"eval_specialization": 90.0}, None),
        ((None, 10.0), {"eval_specialization": 10.0}, "S 10.00 % has reached the target of 10.0 %"),
        ((None, 10.0), {"eval_specialization": 9.9}, None),
        ((None, 10.0), {"eval_specialization": -11.0}, None),
        ((None, None), {"eval_degeneralization": 900.0, "eval_specialization": 99.0}, None),
        ((2.0, 10.0), {"eval_degeneralization": 3.0, "eval_specialization": 50.0}, "DG 3.00 %"),
    ],
)
def test_a_broken_budget_or_a_reached_target_stops_the_run(limits, metrics, reason):
    budget = Budget(*limits)
    control = TrainerControl()
    budget.on_evaluate(None, TrainerState(global_step=7), control, metrics)
    assert control.should_training_stop == (reason is not None)
    if reason is None:
        assert budget.reason is None
    else:
        assert budget.reason.startswith(reason)


def arguments(folder, metric="eval_loss", keeps_best=True):
    return SimpleNamespace(
        load_best_model_at_end=keeps_best,
        output_dir=str(folder),
        metric_for_best_model=metric,
        eval_strategy="steps",
        lr_scheduler_type="linear",
        warmup_steps=0.1,
    )


@pytest.mark.parametrize(
    ("metric", "value"),
    [("eval_loss", 12.5), ("specialization", 0.0), ("eval_ratio", None)],
)
def test_the_starting_weights_are_the_first_candidate_by_any_metric(tmp_path, metric, value):
    saved = []
    state = TrainerState()
    start = StartingPoint(saved.append, lambda: {"eval_loss": 12.5, "eval_specialization": 0.0})
    start.on_train_begin(arguments(tmp_path, metric), state, TrainerControl())
    assert saved == [tmp_path / "checkpoint-0"]
    assert state.best_metric == value
    assert state.best_model_checkpoint == str(tmp_path / "checkpoint-0")


def test_a_metric_that_no_evaluation_has_is_refused_before_training(tmp_path):
    start = StartingPoint(lambda folder: None, lambda: {"eval_loss": 1.0, "eval_general": 2.0})
    with pytest.raises(InputError, match="eval_los is no metric of this run: did you mean eval_lo"):
        start.on_train_begin(arguments(tmp_path, "eval_los"), TrainerState(), TrainerControl())


@pytest.mark.parametrize(
    ("keeps_best", "step", "best"), [(False, 0, None), (True, 4, 3.0), (True, 4, None)]
)
def test_the_starting_weights_are_not_saved_where_they_are_no_candidate(
    tmp_path, keeps_best, step, best
):
    saved = []
    state = TrainerState(global_step=step, best_metric=best)
    args = arguments(tmp_path, keeps_best=keeps_best)
    start = StartingPoint(saved.append, lambda: {"eval_loss": 12.5})
    start.on_train_begin(args, state, TrainerControl())
    assert saved == []
    assert state.best_metric == best
    assert state.best_model_checkpoint is None


def test_the_progress_line_shows_the_latest_figures():
    shown = []
    line = ProgressLine()
    state = TrainerState(is_world_process_zero=True)
    control = TrainerControl()
    line.on_log(None, state, control, {"loss": 1.0})
    line.training_bar = SimpleNamespace(set_postfix=lambda values: shown.append(dict(values)))
    line.on_log(None, state, control, {"loss": 2.3456, "grad_norm": 1.0})
    line.on_log(None, state, control, {"eval_specialization": 12.345, "eval_ratio": math.nan})
    line.on_log(None, state, control, {"loss": 2.0})
    assert shown == [
        {"loss": "2.346"},
        {"loss": "2.346", "S%": "12.35"},
        {"loss": "2.000", "S%": "12.35"},
    ]


class Device:
    """A device with a queue: a step is given to it at once, and takes it two seconds."""

    def __init__(self):
        self.now = self.busy_until = 0.0

    def clock(self):
        return self.now

    def step(self):
        self.now += 0.1
        self.busy_until = max(self.busy_until, self.now) + 2.0

    def synchronize(self):
        self.now = max(self.now, self.busy_until)


def timed(device, watch, steps, pause):
    """`steps` steps, after each of which `pause(step)` names what happens next, if anything."""
    control, state = TrainerControl(), TrainerState()
    for step in range(1, steps + 1):
        watch.on_step_begin(None, state, control)
        device.step()
        next_event = pause(step)
        control.should_evaluate = next_event == "evaluate"
        control.should_save = next_event == "save"
        control.should_training_stop = step == steps
        watch.on_step_end(None, state, control)
        if next_event == "evaluate":
            device.synchronize()
            device.now += 100.0
            watch.on_evaluate(None, state, control)
        if next_event == "save":
            device.now += 50.0
            watch.on_save(None, state, control)
    return watch


def test_the_stopwatch_waits_for_the_device_and_leaves_out_what_is_not_a_step():
    device = Device()
    watch = Stopwatch(device.clock, device.synchronize)
    timed(device, watch, 12, {4: "evaluate", 8: "save"}.get)
    assert watch.steps == 12
    # Three stretches of four steps, each with the 0.1 s before the device has anything to do.
    assert watch.seconds == pytest.approx(12 * 2.0 + 3 * 0.1)


def test_the_stopwatch_drops_a_stretch_that_something_else_fell_into():
    device = Device()
    watch = Stopwatch(device.clock, device.synchronize)
    watch.on_step_begin(None, TrainerState(), TrainerControl())
    device.step()
    watch.on_step_end(None, TrainerState(), TrainerControl())
    device.now += 1000.0
    watch.on_evaluate(None, TrainerState(), TrainerControl())
    timed(device, watch, 4, lambda step: None)
    assert (watch.steps, watch.seconds) == (4, pytest.approx(4 * 2.0 + 0.1))


def test_the_stopwatch_needs_no_waiting_on_a_cpu():
    args = SimpleNamespace(device=torch.device("cpu"))
    watch = Stopwatch(iter([10.0, 13.0]).__next__)
    control = TrainerControl(should_training_stop=True)
    watch.on_step_begin(args, TrainerState(), control)
    watch.on_step_end(args, TrainerState(), control)
    assert (watch.steps, watch.seconds) == (1, 3.0)


@pytest.mark.parametrize("order", ["mixed", "plain"])
def test_the_sampler_hears_of_its_epoch_in_a_run_that_goes_on_within_one(order):
    # What accelerate makes of a training text for two processes, and of its rest.
    if order == "mixed":
        sampler = MixedOrder(16, 16, Mixture.of(0.5, 2, 1, 2), seed=1)
    else:
        sampler = SeedableRandomSampler(range(16), data_seed=1)
    shard = BatchSamplerShard(BatchSampler(sampler, 2, drop_last=False), 2, 1)
    sampler.set_epoch(3)
    whole = list(shard)
    sampler.set_epoch(0)
    rest = SkipBatchSampler(shard, skip_batches=2)
    loader = SimpleNamespace(batch_sampler=shard)
    SamplerEpoch().on_epoch_begin(None, TrainerState(epoch=3.5), None, train_dataloader=loader)
    assert list(rest) == whole[2:]
