"""The configuration: the paper's defaults, and one sentence for what cannot be."""

import pytest
from transformers import TrainingArguments

from minifinetuning.config import MFTConfig, ReferenceConfig, training
from minifinetuning.errors import InputError


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "run")


def test_the_defaults_are_the_papers(folder):
    made = MFTConfig(output_dir=folder)
    assert made.objective == "mft"
    assert made.tau == 0.25
    assert made.max_steps == 1000
    sequences = made.per_device_train_batch_size * made.gradient_accumulation_steps
    assert sequences == 16
    assert made.optim.startswith("adamw")
    assert made.load_best_model_at_end
    assert made.metric_for_best_model == "eval_selection_perplexity"
    assert made.greater_is_better is False
    assert made.eval_steps == made.save_steps == 0.1
    assert made.needs_teacher


def test_a_reference_is_one_epoch_of_plain_finetuning(folder):
    made = ReferenceConfig(output_dir=folder)
    assert made.objective == "ft"
    assert (made.max_steps, made.num_train_epochs) == (-1, 1.0)
    assert not made.needs_teacher
    assert not made.watches_forgetting


@pytest.mark.parametrize(
    ("objective", "needs"),
    [("ft", False), ("mft", True), ("corrective", True), ("distillation", True)],
)
def test_only_finetuning_needs_no_teacher(folder, objective, needs):
    assert MFTConfig(output_dir=folder, objective=objective).needs_teacher == needs


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tau": -0.1}, "--tau must be between 0 and 1, got -0.1"),
        ({"tau": 1.01}, "--tau must be between 0 and 1, got 1.01"),
        ({"tau": float("nan")}, "--tau must be between 0 and 1, got nan"),
        ({"objective": "rlhf"}, "--objective rlhf is not known: choose one of ft, "),
        (
            {"max_degeneralization": -1.0},
            "--max_degeneralization is a percentage above 0, got -1.0",
        ),
        ({"max_degeneralization": 0.0}, "--max_degeneralization is a percentage above 0, got 0.0"),
        ({"target_specialization": -3.0}, "--target_specialization is a percentage above 0"),
        ({"learning_rate": 0.0}, "--learning_rate must be above 0, got 0.0"),
        ({"learning_rate": -1e-5}, "--learning_rate must be above 0, got -1e-05"),
        ({"eval_strategy": "no"}, "load_best_model_at_end"),
        ({"eval_strategy": "sometimes"}, "sometimes"),
        ({"bf16": True, "fp16": True}, "fp16"),
    ],
)
def test_values_that_cannot_be_are_refused_in_one_sentence(folder, options, sentence):
    with pytest.raises(InputError) as caught:
        MFTConfig(output_dir=folder, **options)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tau", [0.0, 0.25, 1.0])
def test_tau_may_be_any_probability(folder, tau):
    assert MFTConfig(output_dir=folder, tau=tau).tau == tau


@pytest.mark.parametrize("pays", [True, False])
def test_bfloat16_is_chosen_by_the_device_unless_it_is_said(folder, monkeypatch, pays):
    monkeypatch.setattr(training, "bfloat16_pays", lambda use_cpu: pays)
    assert MFTConfig(output_dir=folder).bf16 == pays
    assert MFTConfig(output_dir=folder, bf16=False).bf16 is False
    assert MFTConfig(output_dir=folder, bf16=True).bf16 is True
    assert MFTConfig(output_dir=folder, fp16=True).bf16 is False


def test_every_field_of_training_arguments_is_still_there(folder):
    names = {name for name, field in TrainingArguments.__dataclass_fields__.items() if field.init}
    assert names <= set(MFTConfig.__dataclass_fields__)
    assert MFTConfig(output_dir=folder, weight_decay=0.3).weight_decay == 0.3


def test_the_summary_says_what_was_chosen(folder):
    summary = MFTConfig(output_dir=folder, weight_decay=0.3, max_steps=7).summary()
    assert summary["weight_decay"] == 0.3
    assert summary["max_steps"] == 7
    assert summary["tau"] == 0.25
    assert "adam_beta1" not in summary
