"""Which step is kept: by any metric, and never lost because nobody had asked to save it."""

import math
from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState

from minifinetuning.errors import InputError
from minifinetuning.training.requirements import metrics_of_evaluations, require_texts
from minifinetuning.training.selection import Budget, StartingPoint, within_budget
from minifinetuning.training.trainer import MFTTrainer


@pytest.fixture
def run(tiny_model, training_arguments, validation_texts, random_sequences):
    """`run(**settings)`: a trainer that gains, evaluates at every step and keeps the best."""

    def make(texts=validation_texts, **settings):
        every_step = {
            "objective": "ft",
            "eval_strategy": "steps",
            "save_strategy": "steps",
            "eval_steps": 1,
            "load_best_model_at_end": True,
            "learning_rate": 1e-3,
            "max_steps": 4,
        }
        return MFTTrainer(
            tiny_model("llama"),
            training_arguments(**(every_step | settings)),
            train_dataset=random_sequences(40, 16, seed=3, vocabulary=20),
            eval_dataset=texts,
        )

    return make


def logged(trainer, name):
    history = trainer.state.log_history
    return {entry["step"]: entry[f"eval_{name}"] for entry in history if f"eval_{name}" in entry}


@pytest.mark.parametrize("settings", [{}, {"greater_is_better": True}])
def test_the_step_of_the_largest_gain_can_be_kept(run, settings):
    trainer = run(metric_for_best_model="eval_specialization", **settings)
    trainer.train()
    gains = logged(trainer, "specialization")
    assert max(gains.values()) > 0
    assert trainer.kept_step == max(gains, key=gains.get)


def test_the_step_of_the_least_loss_can_be_kept(run):
    trainer = run(metric_for_best_model="general_perplexity")
    trainer.train()
    start = trainer.reference["general"].perplexity
    losses = {0: start} | logged(trainer, "general_perplexity")
    assert trainer.kept_step == min(losses, key=losses.get)


def test_a_metric_without_a_value_at_the_start_is_compared_from_the_first_step_on(run):
    trainer = run(metric_for_best_model="eval_ratio")
    trainer.train()
    ratios = logged(trainer, "ratio")
    assert trainer.kept_step == min(ratios, key=ratios.get)


@pytest.mark.parametrize("with_general", [True, False])
def test_what_can_be_chosen_by_is_what_evaluations_say(run, validation_texts, with_general):
    names = ["specialized", "general"] if with_general else ["specialized"]
    texts = {name: validation_texts[name] for name in names}
    trainer = run(texts, objective="mft", max_steps=1)
    trainer.train()
    said = set().union(*trainer.state.log_history)
    known = metrics_of_evaluations(names)
    assert {name for name in said if name.startswith("eval_")} == {*known, "eval_runtime"}


def test_a_metric_that_needs_general_text_is_refused_without(training_arguments):
    args = training_arguments(
        metric_for_best_model="eval_degeneralization",
        load_best_model_at_end=True,
        eval_strategy="steps",
        save_strategy="steps",
    )
    named = {"specialized": ["s"], "general": ["g"]}
    require_texts(args, named, replay=None, fisher=None)
    with pytest.raises(InputError, match=r"eval_degeneralization is no metric of .* --general"):
        require_texts(args, named | {"general": None}, replay=None, fisher=None)


def test_a_metric_that_stands_in_for_general_text_is_refused_beside_it(run, validation_texts):
    with pytest.raises(InputError, match=r"forward_kl is no metric of .*: leave --general out"):
        run(metric_for_best_model="forward_kl")
    run({"specialized": validation_texts["specialized"]}, metric_for_best_model="forward_kl")


def test_an_unknown_metric_is_refused_before_any_work(run):
    with pytest.raises(InputError, match="did you mean eval_specialization"):
        run(metric_for_best_model="eval_specialisation")


def test_the_perplexity_of_a_text_of_ones_own_can_be_chosen_by(run, validation_texts):
    texts = validation_texts | {"news": validation_texts["general"]}
    trainer = run(texts, metric_for_best_model="news_perplexity", max_steps=1)
    trainer.train()
    assert trainer.state.best_metric <= trainer.reference["news"].perplexity


def test_a_step_that_is_not_saved_takes_no_other_ones_place(run):
    trainer = run(metric_for_best_model="eval_ratio", save_steps=2, learning_rate=3e-2)
    trainer.train()
    ratios = logged(trainer, "ratio")
    assert min(ratios, key=ratios.get) == 1
    assert trainer.kept_step == 2


def test_the_step_that_reaches_the_target_is_saved_and_kept(run):
    trainer = run(target_specialization=0.1, save_steps=4)
    trainer.train()
    gains = logged(trainer, "specialization")
    assert "has reached the target" in trainer.budget.reason
    assert trainer.state.global_step < 4
    assert trainer.kept_step == trainer.state.global_step == max(gains)
    assert gains[trainer.kept_step] >= 0.1


def test_a_run_too_short_to_be_measured_is_refused_before_its_first_step(run):
    trainer = run(max_steps=-1, num_train_epochs=0.1, eval_steps=3)
    with pytest.raises(InputError, match="--eval_steps 3 is above the 2 steps of this run"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_warm_up_of_all_steps_is_refused_where_epochs_say_how_many_they_are(run):
    trainer = run(max_steps=-1, num_train_epochs=0.1, warmup_steps=2, lr_scheduler_type="cosine")
    with pytest.raises(InputError, match="--warmup_steps 2 leaves none of the 2 steps"):
        trainer.train()
    assert trainer.state.global_step == 0


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
    metrics = {"eval_loss": 12.5, "eval_specialization": 0.0}
    start = StartingPoint(lambda: saved.append("start"), lambda: metrics)
    start.on_train_begin(arguments(tmp_path, metric), state, TrainerControl())
    assert saved == ["start"]
    assert state.best_metric == value
    assert state.best_model_checkpoint == str(tmp_path / "checkpoint-0")


@pytest.mark.parametrize(
    ("keeps_best", "step", "best"), [(False, 0, None), (True, 4, 3.0), (True, 4, None)]
)
def test_the_starting_weights_are_not_saved_where_they_are_no_candidate(
    tmp_path, keeps_best, step, best
):
    saved = []
    state = TrainerState(global_step=step, best_metric=best)
    args = arguments(tmp_path, keeps_best=keeps_best)
    start = StartingPoint(lambda: saved.append("start"), lambda: {"eval_loss": 12.5})
    start.on_train_begin(args, state, TrainerControl())
    assert saved == []
    assert state.best_metric == best
    assert state.best_model_checkpoint is None
