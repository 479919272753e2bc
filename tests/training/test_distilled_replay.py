"""Replay that is added to whole steps and distilled, against float64 loops from its formula."""

import copy
import math

import pytest
import torch
from transformers import TrainerCallback

from minifinetuning.errors import InputError
from minifinetuning.models.adapters import adapter_config
from minifinetuning.training.trainer import MFTTrainer

RATE = 0.1
PLAIN = {"optim": "sgd", "learning_rate": RATE, "max_grad_norm": 0.0, "weight_decay": 0.0}
ADDED = {"replay_share": 0.25, "replay_weight": 3.0, **PLAIN}


@pytest.fixture
def texts(random_sequences):
    """Specialized and general text of different tokens; of each sequence another part is learnt."""
    new = random_sequences(24, 16, seed=3, vocabulary=20)
    old = random_sequences(7, 12, seed=4, vocabulary=100)
    for sequence in old:
        sequence["input_ids"] = [token + 200 for token in sequence["input_ids"]]
    for index, sequence in enumerate([*new, *old]):
        masked = (0, 9, 3)[index % 3]
        sequence["labels"] = [-100] * masked + sequence["input_ids"][masked:]
    return new, old


def trained(model, args, texts, callbacks=(), adapter=None, resume=None):
    """The trainer after its run, and its batches as lists of (token ids, labels)."""
    new, old = texts
    peft_config = adapter_config(adapter, model, rank=2) if adapter else None
    trainer = MFTTrainer(
        model,
        args,
        train_dataset=new,
        replay_dataset=old,
        callbacks=list(callbacks),
        peft_config=peft_config,
    )
    collate, seen = trainer.data_collator, []

    def recorded(examples):
        batch = collate(examples)
        seen.append(list(zip(batch["input_ids"], batch["labels"], strict=True)))
        return batch

    trainer.data_collator = recorded
    trainer.train(resume_from_checkpoint=resume)
    return trainer, seen


def weights(trainer):
    return {name: value.detach() for name, value in trainer.model.named_parameters()}


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def mixture(objective, p_label, p_max):
    """(m, w) of one token, from the paper's formulas; tau 0.25, weight of the KL 0.1."""
    if objective == "mft":
        if p_label >= p_max:
            return min(1.0, 0.25 / (1 - p_label)), 1.0
        return (p_max - p_label + 0.25) / (1 + p_max - p_label), 1.0
    return {"ft": (1.0, 1.0), "kl": (1 / 1.1, 1.1), "distillation": (0.0, 1.0)}[objective]


def token_losses(objective, student, teacher, ids, labels):
    """w * CE(q, p_S) and KL(p_T || p_S) of each learnt token, token by token."""
    log_p = torch.log_softmax(student(ids[None]).logits[0], 1)
    with torch.no_grad():
        log_t = torch.log_softmax(teacher(ids[None]).logits[0], 1)
    losses, divergences = [], []
    for position, label in enumerate(labels[1:].tolist()):
        if label == -100:
            continue
        p_t = log_t[position].exp()
        m, w = mixture(objective, p_t[label].item(), p_t.max().item())
        q = (1 - m) * p_t
        q[label] += m
        losses.append(-w * (q * log_p[position]).sum())
        divergences.append((p_t * (log_t[position] - log_p[position])).sum())
    return losses, divergences


def mean(values):
    return sum(values) / len(values) if values else torch.zeros((), dtype=torch.float64)


def step_loss(objective, student, teacher, rows, weight):
    """(loss, mean loss of new tokens, mean KL of replayed ones) of the rows of one step."""
    new, old = [], []
    for ids, labels in rows:
        # Padding lies behind what is learnt, where a causal model does not see it.
        losses, divergences = token_losses(objective, student, teacher, ids, labels)
        if ids.max() >= 200:
            old += divergences
        else:
            new += losses
    return mean(new) + weight * mean(old), mean(new), mean(old)


@pytest.mark.parametrize("share", [0.25, 0.1])
@pytest.mark.parametrize("objective", ["ft", "mft", "kl"])
def test_a_step_is_that_of_a_float64_loop_however_it_is_cut(
    tiny_model, training_arguments, texts, objective, share
):
    steps = 3
    runs = [
        trained(
            tiny_model("llama").double(),
            training_arguments(
                objective=objective,
                max_steps=steps,
                per_device_train_batch_size=size,
                gradient_accumulation_steps=8 // size,
                logging_steps=1,
                **ADDED | {"replay_share": share},
            ),
            texts,
        )
        for size in (8, 1, 2)
    ]
    _, seen = runs[0]
    # 8 * 0.25 = 2 in every step; 8 * 0.1 = 0.8, and the first step has none.
    replayed = [sum(ids.max() >= 200 for ids, _ in rows) for rows in seen[:steps]]
    assert replayed == ([2, 2, 2] if share == 0.25 else [0, 1, 1])

    start = tiny_model("llama").double().eval()
    own, expected = copy.deepcopy(start), []
    for rows in seen[:steps]:
        assert sum(ids.max() < 200 for ids, _ in rows) == 8
        losses = step_loss(objective, own, start, rows, 3.0)
        own.zero_grad()
        losses[0].backward()
        with torch.no_grad():
            for value in own.parameters():
                value -= RATE * value.grad
        expected.append([loss.item() for loss in losses])
    assert not torch.equal(own.lm_head.weight, start.lm_head.weight)
    for trainer, _ in runs:
        for name, value in weights(trainer).items():
            reached = dict(own.named_parameters())[name]
            torch.testing.assert_close(value, reached, rtol=0, atol=1e-9, msg=name)
        wholes, news, olds = zip(*expected, strict=True)
        assert logged(trainer, "loss") == pytest.approx(wholes, rel=1e-5, abs=1e-7)
        assert logged(trainer, "specialized_loss") == pytest.approx(news, rel=1e-5)
        present = [kl for kl, count in zip(olds, replayed, strict=True) if count]
        assert logged(trainer, "replay_kl") == pytest.approx(present, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("objective", ["ft", "mft"])
@pytest.mark.parametrize(("adapter", "cache"), [(None, "hidden"), ("lora", "expected")])
def test_from_a_cache_it_is_what_it_is_with_the_live_teacher(
    tiny_model, training_arguments, texts, objective, adapter, cache
):
    runs = [
        trained(
            tiny_model("llama"),
            training_arguments(objective=objective, teacher_cache=kind, logging_steps=1, **ADDED),
            texts,
            adapter=adapter,
        )[0]
        for kind in ("none", cache)
    ]
    live, cached = runs
    # Plain finetuning asks the teacher about the replayed text alone.
    asked = {"replay"} if objective == "ft" else {"train", "replay"}
    assert cached.cache_plan.stores.keys() == asked
    for name, value in weights(cached).items():
        torch.testing.assert_close(value, weights(live)[name], rtol=1e-4, atol=1e-6, msg=name)
    for name in ("loss", "specialized_loss", "replay_kl"):
        assert logged(cached, name) == pytest.approx(logged(live, name), rel=1e-4, abs=1e-6)
    assert max(logged(cached, "replay_kl")) > 1e-4


def test_plain_finetuning_asks_the_live_teacher_about_replayed_rows_alone(
    tiny_model, training_arguments, texts
):
    args = training_arguments(
        objective="ft", per_device_train_batch_size=4, teacher_cache="none", **ADDED
    )
    trainer = MFTTrainer(tiny_model("llama"), args, train_dataset=texts[0], replay_dataset=texts[1])
    asked, outputs = [], trainer.teacher.outputs

    def counted(inputs):
        asked.append(inputs["input_ids"])
        return outputs(inputs)

    trainer.teacher.outputs = counted
    trainer.train()
    assert len(asked) == 5
    assert all(len(ids) == 1 and ids.max() >= 200 for ids in asked)


def test_it_trains_in_bfloat16_and_with_a_collator_of_another_making(
    tiny_model, training_arguments, texts
):
    def theirs(examples):
        length = max(len(example["input_ids"]) for example in examples)
        padded = {
            name: [example[name] + [fill] * (length - len(example[name])) for example in examples]
            for name, fill in (("input_ids", 0), ("labels", -100))
        }
        return {name: torch.tensor(rows) for name, rows in padded.items()}

    def figures(**options):
        args = {"per_device_train_batch_size": 4, "logging_steps": 1, **ADDED}
        data_collator = options.pop("data_collator", None)
        trainer = MFTTrainer(
            tiny_model("llama"),
            training_arguments(**args, **options),
            train_dataset=texts[0],
            replay_dataset=texts[1],
            data_collator=data_collator,
        )
        trainer.train()
        return logged(trainer, "loss"), logged(trainer, "replay_kl")

    plain = figures()
    for got in (figures(data_collator=theirs), figures(bf16=True)):
        for values, expected in zip(got, plain, strict=True):
            assert values == pytest.approx(expected, rel=0.05, abs=5e-3)


class Interrupt(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise KeyboardInterrupt


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_run_that_is_resumed_goes_on_as_if_it_had_never_been_stopped(
    tiny_model, training_arguments, texts, share
):
    # Epochs of six steps: it goes on within the first, and over to the second.
    settings = {"max_steps": 10, "save_strategy": "steps", "save_steps": 4, "logging_steps": 1}
    settings |= {
        "save_only_model": False,
        "per_device_train_batch_size": 4,
        **ADDED,
        "replay_share": share,
    }

    def run(folder, **options):
        args = training_arguments(**settings)
        args.output_dir = f"{args.output_dir}-{folder}"
        return trained(tiny_model("llama"), args, texts, **options)

    with pytest.raises(KeyboardInterrupt):
        run("stopped", callbacks=[Interrupt()])
    resumed, seen_again = run("stopped", resume=True)
    whole, seen = run("whole")
    for name, value in weights(whole).items():
        assert torch.equal(weights(resumed)[name], value), name
    assert logged(resumed, "loss") == logged(whole, "loss")
    counts = [len(rows) - 4 for rows in seen[:10]]
    assert counts == [
        math.floor((step + 1) * 4 * share) - math.floor(step * 4 * share) for step in range(10)
    ]
    assert [len(rows) for rows in seen_again[:6]] == [len(rows) for rows in seen[4:10]]


def test_a_run_is_not_resumed_with_another_share_or_weight(tiny_model, training_arguments, texts):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "save_only_model": False}
    trained(tiny_model("llama"), training_arguments(**settings, **ADDED), texts)
    for name, value in (("replay_share", 0.5), ("replay_weight", 1.0)):
        args = training_arguments(**settings, **ADDED | {name: value})
        with pytest.raises(InputError, match=f"--{name} was"):
            trained(tiny_model("llama"), args, texts, resume=True)


def test_any_other_objective_may_train_the_replayed_text(tiny_model, training_arguments, texts):
    settings = ADDED | {"replay_objective": "ft", "objective": "mft"}
    args = training_arguments(
        max_steps=1, per_device_train_batch_size=8, logging_steps=1, **settings
    )
    trainer, seen = trained(tiny_model("llama").double(), args, texts)
    start = tiny_model("llama").double().eval()
    new, old = [], []
    for ids, labels in seen[0]:
        is_old = bool(ids.max() >= 200)
        losses, _ = token_losses("ft" if is_old else "mft", start, start, ids, labels)
        (old if is_old else new).extend(losses)
    assert logged(trainer, "loss") == pytest.approx([(mean(new) + 3 * mean(old)).item()], rel=1e-6)
    assert logged(trainer, "replay_loss") == pytest.approx([mean(old).item()], rel=1e-6)
    assert logged(trainer, "replay_kl") == []


def test_talr_takes_its_temperature_from_new_text_alone(tiny_model, training_arguments, texts):
    settings = {"objective": "talr", "max_steps": 2, "logging_steps": 1, **PLAIN}
    settings["per_device_train_batch_size"] = 4
    light = {"replay_share": 0.25, "replay_weight": 1e-12}
    runs = [
        trained(tiny_model("llama"), training_arguments(**settings, **light, seed=1), (new, old))[0]
        for new, old in (texts, (texts[0], texts[1][:1] * 7))
    ]
    assert logged(runs[0], "specialized_loss") == pytest.approx(
        logged(runs[1], "specialized_loss"), rel=1e-6
    )


def test_what_is_not_said_is_settled_and_told(training_arguments):
    by_share = training_arguments(replay_share=0.5)
    by_weight = training_arguments(replay_weight=2.0)
    assert (by_share.replay_weight, by_share.replay_objective) == (1.0, "distillation")
    assert (by_weight.replay_share, by_weight.replayed_per_new) == (0.25, 0.25)
    for made in (by_share, by_weight, by_share.but(seed=1)):
        told = {"replay_share", "replay_weight", "replay_objective"}
        assert told <= made.summary().keys()
    untouched = training_arguments()
    assert not untouched.adds_replay
    assert (untouched.replay_objective, untouched.replayed_per_new) == (None, 1.0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"replay_share": 0.25, "new_data_fraction": 0.25}, "leave one or the others out"),
        ({"replay_weight": 1.0, "new_data_fraction": 0.25}, "leave one or the others out"),
        ({"replay_share": 0.0}, "--replay_share must be above 0"),
        ({"replay_weight": -1.0}, "--replay_weight must be above 0"),
        ({"replay_share": 0.25}, "need replayed text: give it as --replay"),
        ({"replay_weight": 0.25}, "need replayed text: give it as --replay"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tiny_model, training_arguments, texts, options, sentence
):
    with pytest.raises(InputError, match=sentence):
        MFTTrainer(tiny_model("llama"), training_arguments(**options), train_dataset=texts[0])
