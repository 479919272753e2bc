"""A run that was interrupted and resumed, against one that never was."""

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from transformers import TrainerCallback

import minifinetuning
from minifinetuning.errors import InputError
from minifinetuning.training import resuming
from minifinetuning.training.checkpoints import last_complete_checkpoint, write_manifest
from minifinetuning.training.config import MFTConfig
from minifinetuning.training.folder import run_folder
from minifinetuning.training.trainer import MFTTrainer

LORA = LoraConfig(r=2, lora_dropout=0.1, task_type="CAUSAL_LM")
VOLATILE = {"eval_runtime", "train_runtime", "train_samples_per_second", "train_steps_per_second"}

CHILD = """
import json, sys, time
import torch
from transformers import TrainerCallback
from minifinetuning.training.config import MFTConfig
from minifinetuning.training.trainer import MFTTrainer
from minifinetuning.models.loading import load_model

class Hang(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 5:
            time.sleep(600)

torch.set_num_threads(1)
given = json.loads(sys.argv[1])
MFTTrainer(
    load_model(given["model"]),
    MFTConfig(**given["settings"]),
    train_dataset=given["train"],
    eval_dataset=given["texts"],
    callbacks=[Hang()],
).train()
"""


class Interrupt(TrainerCallback):
    """Raises KeyboardInterrupt before the step after `after`, and counts the steps."""

    def __init__(self, after=None):
        self.after = after
        self.steps = []

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.after:
            raise KeyboardInterrupt

    def on_step_end(self, args, state, control, **kwargs):
        self.steps.append(state.global_step)


@pytest.fixture
def settings(tmp_path):
    """Eight steps, evaluated and saved at every second, with a schedule and dropout to lose."""

    def make(name, **changes):
        return {
            "output_dir": str(tmp_path / name),
            "max_steps": 8,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 2,
            "logging_steps": 1,
            "eval_steps": 2,
            "save_steps": 2,
            "save_total_limit": None,
            "bf16": False,
            "use_cpu": True,
            "dataloader_pin_memory": False,
            "disable_tqdm": True,
            **changes,
        }

    return make


@pytest.fixture
def train(random_sequences):
    return random_sequences(40, 16, seed=3, vocabulary=20)


@pytest.fixture
def trainer(tiny_model, settings, train, validation_texts):
    def make(name, adapter=None, callback=None, texts=validation_texts, data=train, **changes):
        return MFTTrainer(
            tiny_model("llama", attention_dropout=0.1),
            MFTConfig(**settings(name, **changes)),
            train_dataset=data,
            eval_dataset=texts,
            peft_config=copy.deepcopy(adapter),
            callbacks=[callback or Interrupt()],
        )

    return make


def assert_same_run(got, expected):
    """Weights, log and choice of checkpoint, to the last bit."""
    weights = dict(expected.model.named_parameters())
    for name, value in got.model.named_parameters():
        assert torch.equal(value, weights[name]), name
    logs = [
        [{k: v for k, v in entry.items() if k not in VOLATILE} for entry in log[:-1]]
        for log in (got.state.log_history, expected.state.log_history)
    ]
    assert logs[0] == logs[1]
    assert got.kept_step == expected.kept_step
    assert got.state.best_metric == expected.state.best_metric
    for name, score in expected.kept_scores().items():
        assert got.kept_scores()[name].perplexity == pytest.approx(score.perplexity, rel=1e-9)


def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    tmp_path, tiny_model, settings, train, validation_texts, trainer
):
    tiny_model("llama", attention_dropout=0.1).save_pretrained(tmp_path / "model")
    given = {
        "model": str(tmp_path / "model"),
        "settings": settings("run"),
        "train": train,
        "texts": validation_texts,
    }
    source = str(Path(minifinetuning.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, json.dumps(given)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    # It has its name once it is whole.
    manifest = tmp_path / "run" / "checkpoint-4" / "checkpoint.json"
    try:
        for _ in range(1200):
            if child.poll() is not None or manifest.exists():
                break
            time.sleep(0.1)
    finally:
        child.kill()
        _, error = child.communicate()
    assert child.returncode == -signal.SIGKILL, error.decode()
    assert manifest.exists()

    resumed = Interrupt()
    run = trainer("run", callback=resumed)
    run.train(resume_from_checkpoint=True)
    assert resumed.steps == [5, 6, 7, 8]
    whole = trainer("whole")
    whole.train()
    assert_same_run(run, whole)


@pytest.mark.parametrize("adapter", [None, LORA])
@pytest.mark.parametrize("objective", ["mft", "ft"])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(trainer, adapter, objective):
    with pytest.raises(KeyboardInterrupt):
        trainer("run", adapter, Interrupt(5), objective=objective).train()
    resumed = Interrupt()
    run = trainer("run", adapter, resumed, objective=objective)
    run.train(resume_from_checkpoint=True)
    assert resumed.steps == [5, 6, 7, 8]
    whole = trainer("whole", adapter, objective=objective)
    whole.train()
    assert_same_run(run, whole)


@pytest.mark.parametrize("missing", ["optimizer.pt", "scheduler.pt", "checkpoint.json"])
def test_a_checkpoint_that_is_not_whole_is_passed_over(trainer, tmp_path, missing):
    with pytest.raises(KeyboardInterrupt):
        trainer("run", callback=Interrupt(7)).train()
    (tmp_path / "run" / "checkpoint-6" / missing).unlink()
    resumed = Interrupt()
    run = trainer("run", callback=resumed)
    run.train(resume_from_checkpoint=True)
    assert resumed.steps == [5, 6, 7, 8]
    whole = trainer("whole")
    whole.train()
    assert_same_run(run, whole)


def test_a_run_killed_before_its_first_checkpoint_begins_anew(trainer, tmp_path, settings):
    with pytest.raises(KeyboardInterrupt):
        trainer("run", callback=Interrupt(1)).train()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoint-0"]
    with run_folder(MFTConfig(**settings("run", resume_from_checkpoint="True"))):
        pass
    run = trainer("run")
    run.train(resume_from_checkpoint=True)
    whole = trainer("whole")
    whole.train()
    assert_same_run(run, whole)


@pytest.fixture
def interrupted(trainer, tmp_path):
    """A run with checkpoints at steps 2 and 4."""
    with pytest.raises(KeyboardInterrupt):
        trainer("run", callback=Interrupt(5)).train()
    return tmp_path / "run" / "checkpoint-4"


def test_what_is_of_another_training_is_refused_by_name(
    trainer, interrupted, random_sequences, validation_texts, tiny_model, settings
):
    other = random_sequences(40, 16, seed=4, vocabulary=20)
    text = {**validation_texts, "general": random_sequences(8, 16)}
    cases = [
        ({"data": other}, "the training text (--data) is another"),
        ({"texts": text}, "the general validation text (--general) is another"),
        (
            {"texts": {"specialized": validation_texts["specialized"]}},
            "the general validation text (--general) is missing now",
        ),
        ({"seed": 7}, "--seed was 42 and is 7"),
        ({"objective": "ft"}, "--objective was mft and is ft"),
        ({"tau": 0.5, "learning_rate": 2e-2}, "--learning_rate was 0.01 and is 0.02, --tau was"),
        ({"max_steps": 16}, "--max_steps was 8 and is 16"),
        ({"gradient_accumulation_steps": 1}, "a step had 4 sequences"),
        ({"adapter": LORA}, "there was no adapter (--adapter)"),
    ]
    for changes, said in cases:
        run = trainer("run", **changes)
        for asked in (True, str(interrupted)):
            with pytest.raises(InputError) as caught:
                run.train(resume_from_checkpoint=asked)
            message = str(caught.value)
            assert message.startswith(f"{interrupted} is of another training: ")
            assert said in message
            assert "\n" not in message
    run = trainer("run")
    with torch.no_grad():
        run.model.lm_head.weight[0, 0] += 1
    with pytest.raises(InputError, match=r"the model \(--model, --dtype\) is another"):
        run.train(resume_from_checkpoint=True)
    # What can be known before texts and model are read.
    args = settings("run", seed=7, resume_from_checkpoint="True")
    with pytest.raises(InputError, match="--seed was 42 and is 7"), run_folder(MFTConfig(**args)):
        pass


def test_what_changes_no_training_may_change(trainer, interrupted):
    resumed = Interrupt()
    changes = {"logging_steps": 4, "gradient_accumulation_steps": 4}
    changes |= {"per_device_train_batch_size": 1, "max_degeneralization": 1e6}
    trainer("run", callback=resumed, **changes).train(resume_from_checkpoint=True)
    assert resumed.steps == [5, 6, 7, 8]


def test_more_steps_are_the_same_training_where_the_rate_is_constant(trainer):
    constant = {"lr_scheduler_type": "constant", "warmup_steps": 0}
    trainer("run", max_steps=4, **constant).train()
    run = trainer("run", max_steps=8, **constant)
    run.train(resume_from_checkpoint=True)
    whole = trainer("whole", max_steps=8, **constant)
    whole.train()
    assert_same_run(run, whole)


def test_a_finished_run_trains_no_further(trainer):
    whole = trainer("run")
    whole.train()
    again = Interrupt()
    run = trainer("run", callback=again)
    run.train(resume_from_checkpoint=True)
    assert again.steps == []
    assert run.state.global_step == 8
    assert run.kept_step == whole.kept_step
    for name, value in run.model.named_parameters():
        assert torch.equal(value, whole.model.get_parameter(name)), name


KNOWN_BY_HEART = {
    "objective": "ft",
    "learning_rate": 0.03,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "save_total_limit": 1,
    "max_steps": 10,
}
"""With two sequences, which are known by heart after a few steps: validation gets worse then."""


@pytest.mark.parametrize("best", [0, 4])
def test_a_finished_run_of_which_the_best_step_alone_is_kept_trains_no_further(
    trainer, tmp_path, random_sequences, validation_texts, best
):
    settings = {**KNOWN_BY_HEART, "data": random_sequences(2, 16, seed=3, vocabulary=20)}
    if best == 0:
        settings |= {"texts": {"specialized": validation_texts["general"]}, "learning_rate": 0.2}
    whole = trainer("run", **settings)
    whole.train()
    assert [path.name for path in (tmp_path / "run").iterdir()] == [f"checkpoint-{best}"]
    for asked in (True, str(tmp_path / "run" / f"checkpoint-{best}")):
        again = Interrupt()
        run = trainer("run", callback=again, **settings)
        run.train(resume_from_checkpoint=asked)
        assert again.steps == []
        assert (run.kept_step, run.state.global_step) == (best, 10)
        assert run.state.log_history[: len(whole.state.log_history)] == whole.state.log_history
        for name, value in run.model.named_parameters():
            assert torch.equal(value, whole.model.get_parameter(name)), name
    longer = Interrupt()
    run = trainer("run", callback=longer, **settings | {"max_steps": 12})
    run.train(resume_from_checkpoint=True)
    assert longer.steps == list(range(best + 1, 13))


def test_a_run_that_its_budget_stopped_goes_on_under_a_larger_one_only(trainer):
    def steps(budget, resume):
        counted = Interrupt()
        run = trainer("run", callback=counted, max_degeneralization=budget)
        run.train(resume_from_checkpoint=resume)
        return counted.steps, run.budget.reason

    first, reason = steps(1e-6, resume=False)
    assert len(first) % 2 == 0
    assert len(first) < 8
    assert steps(1e-6, resume=True) == ([], reason)
    assert steps(1e6, resume=True) == (list(range(len(first) + 1, 9)), None)


def test_no_step_above_a_budget_that_came_later_is_kept(trainer, tmp_path):
    settings = {"learning_rate": 1e-3, "lr_scheduler_type": "constant", "warmup_steps": 0}
    with pytest.raises(KeyboardInterrupt):
        trainer("run", callback=Interrupt(7), **settings).train()
    state = json.loads((tmp_path / "run" / "checkpoint-6" / "trainer_state.json").read_text())
    log = [entry for entry in state["log_history"] if "eval_degeneralization" in entry]
    lost = {entry["step"]: entry["eval_degeneralization"] for entry in log}
    budget = lost[6] / 2
    assert max(lost[2], lost[4]) < budget
    assert state["best_model_checkpoint"].endswith("checkpoint-6")
    # The best of those within it whose checkpoint is there; the start always can be kept.
    (tmp_path / "run" / "checkpoint-0").rename(tmp_path / "start")
    for kept in (4, 2, 0):
        run = trainer("run", max_degeneralization=budget, **settings)
        start = [value.detach().clone() for value in run.model.parameters()]
        run.train(resume_from_checkpoint=True)
        assert "is above the budget" in run.budget.reason
        assert run.kept_step == kept
        assert all(map(torch.equal, run.model.parameters(), start)) == (kept == 0)
        shutil.rmtree(tmp_path / "run" / f"checkpoint-{kept}")
    # Under a larger budget the step that broke the smaller one is a candidate again.
    run = trainer("run", max_degeneralization=1e6, callback=Interrupt(7), **settings)
    with pytest.raises(KeyboardInterrupt):
        run.train(resume_from_checkpoint=True)
    assert run.kept_step == 6


def test_a_folder_that_was_moved_keeps_its_best_step(trainer, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trainer("run", callback=Interrupt(5)).train()
    (tmp_path / "run").rename(tmp_path / "moved")
    run = trainer("moved", callback=Interrupt(5))
    with pytest.raises(KeyboardInterrupt):
        run.train(resume_from_checkpoint=True)
    best = Path(run.state.best_model_checkpoint)
    assert best.parent == tmp_path / "moved"
    assert best.is_dir()


def test_the_older_checkpoint_goes_only_when_the_newer_one_is_whole(trainer, tmp_path, monkeypatch):
    def fail_at_six(folder, step, *args, **kwargs):
        if step == 6:
            raise KeyboardInterrupt
        write_manifest(folder, step, *args, **kwargs)

    monkeypatch.setattr(resuming, "write_manifest", fail_at_six)
    with pytest.raises(KeyboardInterrupt):
        trainer("run", save_total_limit=1).train()
    assert last_complete_checkpoint(tmp_path / "run") == tmp_path / "run" / "checkpoint-4"


def test_a_checkpoint_may_be_named(trainer, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trainer("run", callback=Interrupt(5)).train()
    resumed = Interrupt()
    run = trainer("run", callback=resumed)
    run.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert resumed.steps == [3, 4, 5, 6, 7, 8]


def test_the_best_checkpoint_of_before_the_interruption_is_remembered(trainer, random_sequences):
    settings = {**KNOWN_BY_HEART, "data": random_sequences(2, 16, seed=3, vocabulary=20)}
    with pytest.raises(KeyboardInterrupt):
        trainer("run", callback=Interrupt(7), **settings).train()
    run = trainer("run", **settings)
    run.train(resume_from_checkpoint=True)
    assert run.kept_step == 4
    whole = trainer("whole", **settings)
    whole.train()
    assert_same_run(run, whole)


@pytest.mark.parametrize("adapter", [None, LORA])
def test_the_starting_weights_stay_a_candidate_across_an_interruption(
    trainer, validation_texts, adapter, tiny_model
):
    texts = {"specialized": validation_texts["general"]}
    settings = {"texts": texts, "learning_rate": 0.2, "save_total_limit": 1}
    with pytest.raises(KeyboardInterrupt):
        trainer("run", adapter, Interrupt(5), **settings).train()
    run = trainer("run", adapter, **settings)
    run.train(resume_from_checkpoint=True)
    assert run.kept_step == 0
    assert run.state.best_metric == run.reference["specialized"].perplexity
    start = tiny_model("llama")(input_ids=torch.arange(20)[None]).logits
    got = run.model.eval()(input_ids=torch.arange(20)[None]).logits
    torch.testing.assert_close(got, start, rtol=1e-6, atol=1e-6)
