"""Which step is kept: by any metric, and never lost because nobody had asked to save it."""

import pytest

from minifinetuning.errors import InputError
from minifinetuning.training.requirements import metrics_of_evaluations, require_texts
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
    texts = {n: validation_texts[n] for n in ("specialized", "general")[: 1 + with_general]}
    trainer = run(texts, objective="mft", max_steps=1)
    trainer.train()
    said = set().union(*trainer.state.log_history)
    known = metrics_of_evaluations(with_general=with_general)
    assert {name for name in said if name.startswith("eval_")} == {*known, "eval_runtime"}


def test_a_metric_that_needs_general_text_is_refused_without(training_arguments):
    args = training_arguments(
        metric_for_best_model="eval_degeneralization",
        load_best_model_at_end=True,
        eval_strategy="steps",
        save_strategy="steps",
    )
    require_texts(args, general=["g"], replay=None)
    with pytest.raises(InputError, match=r"eval_degeneralization is no metric of .* --general"):
        require_texts(args, general=None, replay=None)


def test_an_unknown_metric_is_refused_before_the_first_step(run):
    trainer = run(metric_for_best_model="eval_specialisation")
    with pytest.raises(InputError, match="did you mean eval_specialization"):
        trainer.train()
    assert trainer.state.global_step == 0


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
