"""Which checkpoint a run ends with, and what a run that diverged leaves behind."""

import copy
import json
import math
import re
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, TrainerCallback

from minifinetuning.errors import InputError, TrainingDivergedError
from minifinetuning.models.loading import load_model
from minifinetuning.training.trainer import MFTTrainer

LORA = LoraConfig(r=2, task_type="CAUSAL_LM")


@pytest.fixture
def run(tiny_model, training_arguments, validation_texts, random_sequences):
    """`run(**settings)`: a trainer that evaluates and saves at every step and keeps the best."""

    def make(adapter=None, callbacks=None, texts=validation_texts, sequences=40, **settings):
        every_step = {
            "eval_strategy": "steps",
            "save_strategy": "steps",
            "eval_steps": 1,
            "save_steps": 1,
            "load_best_model_at_end": True,
            "learning_rate": 1e-2,
        }
        return MFTTrainer(
            tiny_model("llama"),
            training_arguments(**(every_step | settings)),
            train_dataset=random_sequences(sequences, 16, seed=3, vocabulary=20),
            eval_dataset=texts,
            peft_config=copy.deepcopy(adapter),
            callbacks=callbacks,
        )

    return make


class Remember(TrainerCallback):
    """The trained weights after every step, and those before the first."""

    def __init__(self):
        self.weights = {}

    def keep(self, state, model):
        self.weights[state.global_step] = {
            name: value.detach().clone() for name, value in model.named_parameters()
        }

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.keep(state, model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.keep(state, model)


def assert_same(model, weights):
    for name, value in model.named_parameters():
        assert torch.equal(value, weights[name]), name


def evaluations(trainer, name):
    return {e["step"]: e[f"eval_{name}"] for e in trainer.state.log_history if f"eval_{name}" in e}


@pytest.mark.parametrize(("adapter", "learning_rate"), [(None, 0.03), (LORA, 0.2)])
def test_training_that_only_hurts_changes_nothing(run, validation_texts, adapter, learning_rate):
    memory = Remember()
    texts = {"specialized": validation_texts["general"]}
    trainer = run(adapter, [memory], texts, learning_rate=learning_rate)
    trainer.train()
    perplexities = evaluations(trainer, "specialized_perplexity")
    start = trainer.reference["specialized"].perplexity
    assert sorted(perplexities) == [1, 2, 3, 4, 5]
    assert min(perplexities.values()) > start
    assert trainer.kept_step == 0
    assert_same(trainer.model, memory.weights[0])
    assert trainer.kept_scores()["specialized"].perplexity == start
    assert trainer.scores()["specialized"].perplexity == pytest.approx(start, rel=1e-6)
    assert {path.name for path in Path(trainer.args.output_dir).iterdir()} >= {"checkpoint-0"}


@pytest.mark.parametrize(("adapter", "learning_rate"), [(None, 0.03), (LORA, 0.05)])
def test_the_step_of_least_specialized_perplexity_is_kept(run, adapter, learning_rate):
    # Two sequences are soon known by heart, at the expense of the validation text.
    memory = Remember()
    trainer = run(
        adapter,
        [memory],
        sequences=2,
        objective="ft",
        learning_rate=learning_rate,
        max_steps=8,
        save_total_limit=1,
    )
    trainer.train()
    perplexities = evaluations(trainer, "specialized_perplexity")
    best = min(perplexities, key=perplexities.get)
    assert 0 < best < 8
    assert trainer.kept_step == best
    assert_same(trainer.model, memory.weights[best])
    assert trainer.kept_scores()["specialized"].perplexity == perplexities[best]
    # Trainer keeps the last checkpoint beside the best one, and drops it at the end.
    folders = [path.name for path in Path(trainer.args.output_dir).iterdir()]
    assert folders == [f"checkpoint-{best}"]


def test_a_checkpoint_is_what_transformers_loads(run, tmp_path, tiny_model):
    trainer = run(max_steps=2)
    trainer.train()
    folder = Path(trainer.args.output_dir) / f"checkpoint-{trainer.kept_step}"
    assert_same(trainer.model, dict(load_model(str(folder)).named_parameters()))
    assert_same(
        AutoModelForCausalLM.from_pretrained(folder), dict(trainer.model.named_parameters())
    )


def test_an_adapter_checkpoint_is_what_peft_loads(run, tiny_model):
    trainer = run(LORA, sequences=2, objective="ft", learning_rate=0.05, max_steps=2)
    trainer.train()
    folder = Path(trainer.args.output_dir) / f"checkpoint-{trainer.kept_step}"
    loaded = PeftModel.from_pretrained(tiny_model("llama"), folder)
    assert trainer.kept_step > 0
    assert_same(loaded, dict(trainer.model.named_parameters()))


def test_the_forgetting_budget_stops_the_run_and_keeps_what_came_before(run):
    free = run(max_steps=8)
    free.train()
    lost = evaluations(free, "degeneralization")
    perplexities = evaluations(free, "specialized_perplexity")
    budget = (lost[4] + lost[5]) / 2
    assert max(lost[step] for step in range(1, 5)) < budget < lost[5]
    assert perplexities[5] < min(perplexities[step] for step in range(1, 5))

    memory = Remember()
    held = run(callbacks=[memory], max_steps=8, max_degeneralization=budget)
    held.train()
    assert held.state.global_step == 5
    assert "is above the budget" in held.budget.reason
    assert evaluations(held, "selection_perplexity")[5] == math.inf
    assert held.kept_step == 4
    assert_same(held.model, memory.weights[4])
    assert held.scores()["general"].perplexity <= (1 + budget / 100) * (
        held.reference["general"].perplexity
    )


def test_a_budget_that_is_broken_at_once_keeps_the_start(run):
    memory = Remember()
    trainer = run(callbacks=[memory], max_degeneralization=1e-6)
    trainer.train()
    assert trainer.state.global_step == 1
    assert trainer.kept_step == 0
    assert_same(trainer.model, memory.weights[0])


def test_a_reached_target_stops_the_run(run):
    free = run()
    free.train()
    gained = evaluations(free, "specialization")
    assert gained[2] < gained[3]
    held = run(target_specialization=gained[3])
    held.train()
    assert held.state.global_step == held.kept_step == 3
    assert "has reached the target" in held.budget.reason


def test_the_start_is_that_of_this_run_and_not_of_an_earlier_one(run, validation_texts):
    texts = {"specialized": validation_texts["general"]}
    run(texts=texts, learning_rate=0.03, max_steps=1).train()
    memory = Remember()
    again = run(callbacks=[memory], texts=texts, learning_rate=0.03, max_steps=1)
    with torch.no_grad():
        again.model.lm_head.weight.mul_(1.01)
    again.train()
    assert again.kept_step == 0
    assert_same(again.model, memory.weights[0])


def test_the_best_of_the_saved_steps_is_kept_where_not_every_step_is_saved(run):
    trainer = run(sequences=2, objective="ft", learning_rate=0.03, max_steps=8, save_steps=6)
    trainer.train()
    perplexities = evaluations(trainer, "specialized_perplexity")
    assert min(perplexities, key=perplexities.get) not in (6, 8)
    assert perplexities[6] < trainer.reference["specialized"].perplexity
    assert trainer.kept_step == 6


class Break(TrainerCallback):
    """Sets a weight to nan after step 3 was evaluated and saved."""

    def __init__(self, event):
        self.event = event

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if self.event == "before" and state.global_step == 3:
            self.spoil(model)

    def on_save(self, args, state, control, model=None, **kwargs):
        if self.event == "after" and state.global_step == 3:
            self.spoil(model)

    def spoil(self, model):
        with torch.no_grad():
            model.lm_head.weight[5, 5] = math.nan


@pytest.mark.parametrize(("event", "noticed", "good"), [("after", 4, 3), ("before", 3, 2)])
@pytest.mark.parametrize("objective", ["mft", "ft"])
def test_a_loss_that_is_not_finite_stops_the_run(run, event, noticed, good, objective):
    trainer = run(callbacks=[Break(event)], objective=objective, save_total_limit=None)
    with pytest.raises(TrainingDivergedError) as caught:
        trainer.train()
    folder = Path(trainer.args.output_dir)
    message = str(caught.value)
    assert f"the loss is nan at step {noticed}" in message
    assert "lower --learning_rate" in message
    assert message.endswith(f"the last good checkpoint is {folder / f'checkpoint-{good}'}")
    assert "\n" not in message
    model = load_model(str(folder / f"checkpoint-{good}"))
    assert all(torch.isfinite(value).all() for value in model.parameters())
    assert not (folder / f"checkpoint-{noticed}").exists()


def test_a_loss_that_is_not_finite_is_noticed_where_only_checkpoints_are_written(run):
    trainer = run(
        callbacks=[Break("after")],
        eval_strategy="no",
        load_best_model_at_end=False,
        logging_steps=100,
    )
    with pytest.raises(TrainingDivergedError, match=r"at step 4: .* is .*checkpoint-3$"):
        trainer.train()
    assert not (Path(trainer.args.output_dir) / "checkpoint-4").exists()


def test_a_run_that_diverges_before_its_first_checkpoint_says_so(run):
    trainer = run(callbacks=[Break("before")], save_steps=5, eval_steps=5)
    with pytest.raises(TrainingDivergedError, match="no checkpoint was written yet"):
        trainer.train()


def test_resuming_without_a_checkpoint_is_refused(run):
    trainer = run()
    with pytest.raises(InputError, match=re.escape(f"{trainer.args.output_dir} holds no whole")):
        trainer.train(resume_from_checkpoint=True)


def test_a_checkpoint_holds_no_token_of_an_account(run):
    secret = "hf_0123456789secret"
    trainer = run(max_steps=2, hub_token=secret, save_only_model=False, save_total_limit=7)
    trainer.train()
    files = [path for path in Path(trainer.args.output_dir).rglob("*") if path.is_file()]
    assert {"training_args.bin", "trainer_state.json"} <= {path.name for path in files}
    assert not [path for path in files if secret.encode() in path.read_bytes()]
    assert trainer.args.hub_token == secret
    saved = [path for path in files if path.name == "training_args.bin"]
    for path in saved:
        assert torch.load(path, weights_only=False).save_total_limit == 7
    assert secret not in json.dumps(trainer.args.to_dict())


def test_generation_settings_that_cannot_be_saved_end_no_run(run, caplog):
    trainer = run(max_steps=1)
    # As published models have them; transformers refuses to save them.
    trainer.model.generation_config.do_sample = False
    trainer.model.generation_config.temperature = 0.9
    with pytest.raises(ValueError, match="temperature"):
        trainer.model.generation_config.save_pretrained(trainer.args.output_dir)
    trainer.train()
    assert "temperature" in caplog.text
    folders = sorted(path.name for path in Path(trainer.args.output_dir).iterdir())
    assert folders == ["checkpoint-1"]
