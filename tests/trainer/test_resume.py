"""A run that was interrupted and resumed, against one that never was."""

import copy
import json
import os
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
from minifinetuning.trainer import MFTTrainer

LORA = LoraConfig(r=2, lora_dropout=0.1, task_type="CAUSAL_LM")
VOLATILE = {"eval_runtime", "train_runtime", "train_samples_per_second", "train_steps_per_second"}

CHILD = """
import json, sys, time
import torch
from transformers import TrainerCallback
from minifinetuning.config import MFTConfig
from minifinetuning.trainer import MFTTrainer
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
    from minifinetuning.config import MFTConfig

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
    state = tmp_path / "run" / "checkpoint-4" / "trainer_state.json"
    try:
        for _ in range(1200):
            if child.poll() is not None or (state.exists() and _is_json(state)):
                break
            time.sleep(0.1)
    finally:
        child.kill()
        _, error = child.communicate()
    assert child.returncode == -signal.SIGKILL, error.decode()
    assert state.exists()

    resumed = Interrupt()
    run = trainer("run", callback=resumed)
    run.train(resume_from_checkpoint=True)
    assert resumed.steps == [5, 6, 7, 8]
    whole = trainer("whole")
    whole.train()
    assert_same_run(run, whole)


def _is_json(path):
    try:
        return bool(json.loads(path.read_text()))
    except ValueError:
        return False


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


def test_a_checkpoint_that_was_not_written_whole_is_passed_over(trainer, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trainer("run", callback=Interrupt(5)).train()
    half = tmp_path / "run" / "checkpoint-6"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half of the weights")
    resumed = Interrupt()
    run = trainer("run", callback=resumed)
    run.train(resume_from_checkpoint=True)
    assert resumed.steps == [5, 6, 7, 8]
    whole = trainer("whole")
    whole.train()
    assert_same_run(run, whole)


def test_a_checkpoint_may_be_named(trainer, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trainer("run", callback=Interrupt(5)).train()
    resumed = Interrupt()
    run = trainer("run", callback=resumed)
    run.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert resumed.steps == [3, 4, 5, 6, 7, 8]


def test_the_best_checkpoint_of_before_the_interruption_is_remembered(trainer, random_sequences):
    # Two sequences are known by heart after a few steps: the validation text gets worse from there.
    settings = {
        "data": random_sequences(2, 16, seed=3, vocabulary=20),
        "objective": "ft",
        "learning_rate": 0.03,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "save_total_limit": 1,
        "max_steps": 10,
    }
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
