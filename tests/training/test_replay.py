"""Training with replay and with elastic weight consolidation, against plain loops."""

import copy
from itertools import product

import pytest
import torch

from minifinetuning.errors import InputError
from minifinetuning.models.adapters import adapter_config
from minifinetuning.training.ewc import fisher_diagonal
from minifinetuning.training.trainer import MFTTrainer

PLAIN = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0, "weight_decay": 0.0}
SLOW = PLAIN | {"learning_rate": 0.01}


@pytest.fixture
def texts(random_sequences):
    """Specialized and general training text, of different tokens."""
    general = random_sequences(6, 16, seed=4, vocabulary=100)
    for sequence in general:
        sequence["input_ids"] = [token + 200 for token in sequence["input_ids"]]
    return random_sequences(8, 16, seed=3, vocabulary=20), general


def trained(model, args, new, old, **options):
    trainer = MFTTrainer(model, args, train_dataset=new, replay_dataset=old, **options)
    trainer.train()
    return trainer


def log_probabilities(model, ids):
    return torch.log_softmax(model(ids[None]).logits[0, :-1], 1)


def loss_of(objective, student, teacher, ids):
    """Summed over the tokens of one sequence, from the formulas of the paper."""
    log_p = log_probabilities(student, ids)
    if objective == "ft":
        return -log_p.gather(1, ids[1:, None]).sum()
    with torch.no_grad():
        p_teacher = log_probabilities(teacher, ids).exp()
    return -(p_teacher * log_p).sum()


@pytest.mark.parametrize("replay_objective", [None, "distillation"])
@pytest.mark.parametrize("cache", ["none", "hidden"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_step_with_replay_is_that_of_a_plain_loop(
    tiny_model, training_arguments, texts, replay_objective, cache, batch_size
):
    new, old = texts
    model, start = tiny_model("llama"), tiny_model("llama").eval()
    args = training_arguments(
        objective="ft",
        replay_objective=replay_objective,
        max_steps=2,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=4 // batch_size,
        teacher_cache=cache,
        **PLAIN,
    )
    seen = []
    trainer = MFTTrainer(model, args, train_dataset=new, replay_dataset=old)
    collate = trainer.data_collator

    def recorded(examples):
        batch = collate(examples)
        seen.extend(batch["input_ids"])
        return batch

    trainer.data_collator = recorded
    trainer.train()

    # The loop reads ahead of training by no batch, so what was seen is what was trained on.
    own = copy.deepcopy(start)
    for step in range(2):
        batch = seen[4 * step : 4 * step + 4]
        assert [bool(ids.max() >= 200) for ids in batch] == [False, False, True, True]
        objectives = ["ft", "ft", *[replay_objective or "ft"] * 2]
        total = sum(
            loss_of(objective, own, start, ids)
            for objective, ids in zip(objectives, batch, strict=True)
        )
        own.zero_grad()
        (total / (4 * 15)).backward()
        with torch.no_grad():
            for value in own.parameters():
                value -= 0.1 * value.grad
    expected = dict(own.named_parameters())
    for name, value in trainer.model.named_parameters():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)


def test_an_ewc_step_is_that_of_a_plain_loop_under_accumulation(
    tiny_model, training_arguments, texts
):
    new, old = texts
    model = tiny_model("llama")
    fisher = fisher_diagonal(model, old, seed=42)
    settings = {"objective": "ft", "ewc_lambda": 50.0, "max_steps": 3, **PLAIN}
    runs = [
        MFTTrainer(
            tiny_model("llama"),
            training_arguments(
                per_device_train_batch_size=size,
                gradient_accumulation_steps=4 // size,
                train_sampling_strategy="sequential",
                **settings,
            ),
            train_dataset=new,
            fisher_dataset=old,
        )
        for size in (4, 1)
    ]
    for run in runs:
        run.train()

    own = tiny_model("llama").eval()
    start = {name: value.detach().clone() for name, value in own.named_parameters()}
    for step in range(3):
        rows = [new[(4 * step + place) % 8]["input_ids"] for place in range(4)]
        total = sum(loss_of("ft", own, None, torch.tensor(row)) for row in rows) / (4 * 15)
        for name, value in own.named_parameters():
            total = total + 25.0 * (fisher[name] * (value - start[name]) ** 2).sum()
        own.zero_grad()
        total.backward()
        with torch.no_grad():
            for value in own.parameters():
                value -= 0.1 * value.grad
    expected = dict(own.named_parameters())
    for run in runs:
        for name, value in run.model.named_parameters():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)
    losses = [run.state.log_history[-2]["loss"] for run in runs]
    assert runs[0].state.log_history[-2]["ewc_penalty"] > 0
    assert losses == pytest.approx([total.item()] * 2, rel=1e-4)


@pytest.mark.parametrize(
    ("objective", "adapter", "replay", "ewc"),
    [
        *product(("ft", "mft"), (None, "lora", "dora", "ia3"), (False, True), (0.0, 10.0)),
        *product(("kl", "asft", "dft", "mask_the_target"), (None, "lora"), (True,), (10.0,)),
    ],
)
def test_every_composition_runs_two_steps(
    tiny_model, training_arguments, texts, objective, adapter, replay, ewc
):
    new, old = texts
    model = tiny_model("llama")
    trainer = MFTTrainer(
        model,
        training_arguments(objective=objective, ewc_lambda=ewc, max_steps=2, learning_rate=1e-2),
        train_dataset=new,
        replay_dataset=old if replay else None,
        fisher_dataset=old,
        peft_config=adapter_config(adapter, model, rank=2) if adapter else None,
    )
    start = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    moved = {
        name
        for name, value in trainer.model.named_parameters()
        if not torch.equal(value, start[name])
    }
    trained = {name for name, value in trainer.model.named_parameters() if value.requires_grad}
    assert moved
    assert moved <= trained
    assert all(entry["loss"] == entry["loss"] for entry in trainer.state.log_history[:-1])


def test_the_stronger_ewc_the_less_the_weights_move(tiny_model, training_arguments, texts):
    def distance(weight):
        new, old = texts
        model, start = tiny_model("llama"), tiny_model("llama")
        args = training_arguments(objective="ft", ewc_lambda=weight, max_steps=8, **SLOW)
        trained(model, args, new, None, fisher_dataset=old)
        pairs = zip(model.parameters(), start.parameters(), strict=True)
        return sum((one - other).square().sum().item() for one, other in pairs)

    assert distance(30.0) < distance(3.0) < distance(0.0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ewc_lambda": 1.0}, "--ewc_lambda needs general text"),
        ({"replay_objective": "distillation"}, "--replay_objective needs replayed text"),
    ],
)
def test_options_without_their_text_are_refused(
    tiny_model, training_arguments, texts, options, sentence
):
    with pytest.raises(InputError, match=sentence):
        MFTTrainer(tiny_model("llama"), training_arguments(**options), train_dataset=texts[0])
