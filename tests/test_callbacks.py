"""The callbacks alone, on states and metrics made by hand."""

import math
from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState

from minifinetuning.callbacks import Budget, ProgressLine, StartingPoint, Stopwatch, within_budget


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


def test_the_starting_weights_are_the_first_candidate(tmp_path):
    saved = []
    state = TrainerState()
    args = SimpleNamespace(load_best_model_at_end=True, output_dir=str(tmp_path))
    StartingPoint(saved.append, lambda: 12.5).on_train_begin(args, state, TrainerControl())
    assert saved == [tmp_path / "checkpoint-0"]
    assert state.best_metric == 12.5
    assert state.best_model_checkpoint == str(tmp_path / "checkpoint-0")


@pytest.mark.parametrize(
    ("keeps_best", "step", "best"), [(False, 0, None), (True, 4, 3.0), (True, 4, None)]
)
def test_the_starting_weights_are_not_saved_where_they_are_no_candidate(
    tmp_path, keeps_best, step, best
):
    saved = []
    state = TrainerState(global_step=step, best_metric=best)
    args = SimpleNamespace(load_best_model_at_end=keeps_best, output_dir=str(tmp_path))
    StartingPoint(saved.append, lambda: 12.5).on_train_begin(args, state, TrainerControl())
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


def test_the_stopwatch_leaves_out_what_is_not_a_step(monkeypatch):
    clock = iter([10.0, 12.0, 50.0, 53.0])
    monkeypatch.setattr("minifinetuning.callbacks.time.perf_counter", lambda: next(clock))
    watch = Stopwatch()
    for _ in range(2):
        watch.on_step_begin(None, TrainerState(), TrainerControl())
        watch.on_step_end(None, TrainerState(), TrainerControl())
    assert (watch.steps, watch.seconds) == (2, 5.0)
