"""The configuration: the paper's defaults, and one sentence for what cannot be."""

import copy
import pickle
from dataclasses import replace

import pytest
from accelerate import Accelerator
from transformers import HfArgumentParser, TrainingArguments

from minifinetuning.data.config import DataConfig
from minifinetuning.errors import InputError
from minifinetuning.models.config import AdapterConfig, ModelConfig
from minifinetuning.training import config, trainer_options
from minifinetuning.training.config import ComparisonConfig, MFTConfig
from minifinetuning.training.reference import ReferenceConfig


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
            "--max_degeneralization must be a percentage above 0, got -1.0",
        ),
        (
            {"max_degeneralization": 0.0},
            "--max_degeneralization must be a percentage above 0, got 0.0",
        ),
        (
            {"target_specialization": -3.0},
            "--target_specialization must be a percentage above 0 and below 100",
        ),
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
    monkeypatch.setattr(config, "bfloat16_pays", lambda use_cpu: pays)
    assert MFTConfig(output_dir=folder).bf16 == pays
    assert MFTConfig(output_dir=folder, bf16=False).bf16 is False
    assert MFTConfig(output_dir=folder, bf16=True).bf16 is True
    # Such a machine has no GPU, where fp16 is refused in the end.
    monkeypatch.setattr(config, "require_usable_trainer", lambda args: None)
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


def test_what_was_set_is_told_from_the_defaults_however_it_came(folder):
    made = MFTConfig(folder, tau=0.5, seed=42)
    assert made.given == {"output_dir": folder, "tau": 0.5}
    parser = HfArgumentParser(MFTConfig)
    (read,) = parser.parse_args_into_dataclasses(["--output_dir", folder, "--tau", "0.5"])
    assert read.changed == made.changed == ["tau"]
    assert copy.deepcopy(made).given == pickle.loads(pickle.dumps(made)).given == made.given
    again = replace(made, max_steps=7)
    assert {"tau", "max_steps"} <= again.given.keys()
    assert again.changed == ["max_steps", "tau"]
    assert "given" not in again.to_dict()
    assert made.but(max_steps=7).given == made.given | {"max_steps": 7}
    prepared = ReferenceConfig(output_dir=folder, objective="ft", patience=4)
    assert prepared.given == {"output_dir": folder, "patience": 4}


def test_what_follows_from_what_was_set_is_a_change_too(folder):
    made = MFTConfig(output_dir=folder, save_steps=6, metric_for_best_model="specialization")
    follows = {"eval_steps", "save_steps", "metric_for_best_model", "greater_is_better"}
    assert {*made.changed} == follows
    usual = MFTConfig(output_dir=folder, eval_steps=0.1, eval_strategy="steps", report_to=["none"])
    assert usual.changed == []
    assert MFTConfig(output_dir=folder, hub_token="secret").changed == []
    assert ComparisonConfig(output_dir=folder, save_strategy="steps").changed == ["save_strategy"]


def test_telling_what_was_set_leaves_the_state_of_accelerators_alone(folder):
    made = MFTConfig(output_dir=folder, max_steps=7)
    accelerator = Accelerator(cpu=True)
    assert made.changed == ["max_steps"]
    assert made.summary()["max_steps"] == 7
    assert accelerator.state.distributed_type == accelerator.distributed_type


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"eval_steps": 6}, (6, 6)),
        ({"save_steps": 6}, (6, 6)),
        ({"eval_steps": 3, "save_steps": 6}, (3, 6)),
        ({"eval_steps": 0.1, "save_steps": 0.2}, (0.1, 0.2)),
        ({}, (0.1, 0.1)),
    ],
)
def test_where_one_of_two_intervals_is_given_the_other_follows(folder, options, steps):
    made = MFTConfig(output_dir=folder, **options)
    assert (made.eval_steps, made.save_steps) == steps
    again = made.but(output_dir=folder)
    assert (again.eval_steps, again.save_steps) == steps


@pytest.mark.parametrize("options", [{"eval_strategy": "epoch"}, {"save_strategy": "epoch"}])
def test_where_one_of_two_strategies_is_given_the_other_follows(folder, options):
    made = MFTConfig(output_dir=folder, **options)
    assert made.eval_strategy == made.save_strategy == "epoch"
    again = made.but(output_dir=folder)
    assert again.eval_strategy == again.save_strategy == "epoch"


@pytest.mark.parametrize(
    ("metric", "greater"),
    [
        ("eval_specialization", True),
        ("specialization", True),
        ("eval_general_perplexity", False),
        ("eval_degeneralization", False),
        ("eval_loss", False),
    ],
)
def test_which_way_a_metric_is_better_need_not_be_said(folder, metric, greater):
    made = MFTConfig(output_dir=folder, metric_for_best_model=metric)
    assert made.greater_is_better is greater


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"eval_steps": 4, "save_steps": 6}, "--save_steps 6 must be --eval_steps 4 or a multiple"),
        ({"eval_steps": 6, "save_steps": 0.5}, "--save_steps 0.5 must be --eval_steps 6 or a mul"),
        ({"eval_delay": 20, "max_steps": 20}, "--eval_delay 20 leaves no step of --max_steps 20"),
        ({"eval_steps": 99, "max_steps": 20}, "--eval_steps 99 is above --max_steps 20"),
        (
            {"eval_steps": 9, "save_steps": 99, "max_steps": 20},
            "--save_steps 99 is above --max_steps 20",
        ),
        (
            {"eval_strategy": "epoch", "save_strategy": "steps"},
            "--eval_strategy epoch and --save_strategy steps must be the same",
        ),
        ({"optim": "adamw_8bit"}, "--optim adamw_8bit cannot be used: You need to install"),
        ({"optim": "adamw_toch"}, "--optim adamw_toch is not known: did you mean adamw_torch?"),
        ({"optim_args": "rho"}, "with --optim_args rho cannot be used"),
        ({"report_to": "neptune"}, "--report_to neptune needs a package that is not installed"),
        ({"report_to": ["none", "wandbb"]}, "--report_to wandbb is not known: did you mean wandb"),
        ({"lr_scheduler_type": "cosin"}, "--lr_scheduler_type cosin is not known: did you mean"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "cosine_with_min_lr cannot be used"),
        ({"lr_scheduler_kwargs": {"x": 1}}, "with --lr_scheduler_kwargs {'x': 1} cannot be used"),
        ({"use_liger_kernel": True}, "--use_liger_kernel needs a package that is not installed"),
        ({"deepspeed": {"x": 1}}, "--deepspeed needs a package that is not installed"),
        ({"ddp_backend": "gloo"}, "--ddp_backend needs several processes"),
        ({"fsdp": True}, "--fsdp needs several processes"),
        ({"dataloader_persistent_workers": True}, "--dataloader_persistent_workers needs"),
        ({"torch_compile_backend": "indctor"}, "--torch_compile_backend indctor: did you mean ind"),
        ({"torch_compile_mode": "fast"}, "--torch_compile_mode fast is not known"),
        ({"remove_unused_columns": True}, "--remove_unused_columns would drop"),
        ({"push_to_hub": True}, "--push_to_hub needs the hub and a login to it"),
        ({"objective": "mtf"}, "--objective mtf is not known: did you mean mft?"),
        (
            {"max_degeneralization": 1.0, "metric_for_best_model": "eval_specialization"},
            "leave --metric_for_best_model out",
        ),
    ],
)
def test_what_transformers_would_refuse_late_is_refused_at_once(
    folder, options, sentence, monkeypatch
):
    monkeypatch.setattr(
        "minifinetuning.training.trainer_options.get_available_reporting_integrations", list
    )
    find = trainer_options.importlib.util.find_spec
    missing = ("liger_kernel", "deepspeed")
    monkeypatch.setattr(
        trainer_options.importlib.util,
        "find_spec",
        lambda name, *rest: None if name in missing else find(name, *rest),
    )
    monkeypatch.setattr("transformers.trainer_optimizer.is_bitsandbytes_available", lambda: False)
    with pytest.raises(InputError) as caught:
        MFTConfig(output_dir=folder, use_cpu=True, **options)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_half_precision_that_only_a_gpu_has_is_refused_without_one(folder):
    with pytest.raises(InputError, match="--fp16 needs a GPU"):
        MFTConfig(output_dir=folder, use_cpu=True, fp16=True)


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (lambda: AdapterConfig("lara"), "--adapter lara is not known"),
        (lambda: AdapterConfig("lora", 10**9), "--rank must be between 1 and 16,384"),
        (lambda: ModelConfig("m", dtype="int3"), "--dtype int3 is not known"),
        (lambda: DataConfig(data=["d"], sequence_length=0), "--sequence_length must be 2 or above"),
        (lambda: DataConfig(data=["d"], train_tokens="many"), "--train_tokens: 'many' is not a n"),
        (lambda: DataConfig(data=["d"], validation_tokens=f"{10**99}"), "--validation_tokens is"),
    ],
)
def test_what_a_run_starts_from_is_checked_before_anything_is_read(made, sentence):
    with pytest.raises(InputError, match=sentence):
        made()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_steps": 4, "warmup_steps": 1000}, "--warmup_steps 1000 leaves none of the 4 steps"),
        ({"max_steps": 4, "warmup_steps": 4}, "--warmup_steps 4 leaves none of the 4"),
        ({"greater_is_better": True}, "--greater_is_better would keep the worst step"),
        (
            {"greater_is_better": True, "metric_for_best_model": "eval_ratio"},
            "--greater_is_better would keep the worst step by --metric_for_best_model eval_ratio",
        ),
        (
            {"greater_is_better": False, "metric_for_best_model": "specialization"},
            "--greater_is_better false would keep the step of least gain",
        ),
    ],
)
def test_settings_that_defeat_a_run_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        MFTConfig(**{"output_dir": "o", "eval_steps": 1} | changes)


def test_warm_up_within_the_run_is_taken():
    for steps in (0, 3, 0.5):
        MFTConfig(output_dir="o", max_steps=4, eval_steps=1, warmup_steps=steps)
    MFTConfig(
        output_dir="o", max_steps=4, eval_steps=1, warmup_steps=9, lr_scheduler_type="constant"
    )
