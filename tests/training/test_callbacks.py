"""The callbacks alone, on states and metrics made by hand."""

import math
from types import SimpleNamespace

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, SeedableRandomSampler, SkipBatchSampler
from torch.utils.data import BatchSampler
from transformers import TrainerControl, TrainerState

from minifinetuning.data.mixing import MixedOrder, Mixture
from minifinetuning.training.callbacks import ProgressLine, SamplerEpoch, Stopwatch


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
