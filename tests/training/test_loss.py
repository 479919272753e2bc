"""What a training step does to the weights, against plain loops and transformers' own Trainer."""

import copy
import importlib.util
import shutil

import pytest
import torch
from peft import LoraConfig
from transformers import Trainer, TrainingArguments

from minifinetuning.data.batches import collate
from minifinetuning.training.trainer import MFTTrainer


@pytest.fixture
def uneven(random_sequences):
    """Sequences of which very different shares are labels: a mean per batch shows."""
    made = random_sequences(40, 16, seed=5)
    for index, example in enumerate(made):
        labels = list(example["input_ids"])
        masked = (0, 14, 3, 10)[index % 4]
        labels[:masked] = [-100] * masked
        example["labels"] = labels
    return made


def weights(trainer):
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}


def trained(model, args, data, **options):
    trainer = MFTTrainer(model, args, train_dataset=data, **options)
    trainer.train()
    return trainer


def assert_close(got, expected, tolerance=1e-5):
    assert got.keys() == expected.keys()
    for name, value in got.items():
        torch.testing.assert_close(
            value, expected[name], rtol=0, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )


def moved(trainer, start):
    start = dict(start.named_parameters())
    return max((v - start[n]).abs().max().item() for n, v in weights(trainer).items())


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


@pytest.mark.parametrize("family", ["llama", "gpt_neo"])
@pytest.mark.parametrize("objective", ["mft", "ft"])
def test_accumulation_gives_the_weights_of_the_whole_batch(
    tiny_model, training_arguments, uneven, family, objective
):
    # AdamW would turn rounding into whole steps where a gradient is next to zero.
    settings = {"objective": objective, "optim": "sgd", "learning_rate": 0.1}
    runs = [
        trained(
            tiny_model(family),
            training_arguments(
                per_device_train_batch_size=size, gradient_accumulation_steps=8 // size, **settings
            ),
            uneven,
        )
        for size in (8, 1, 2)
    ]
    assert moved(runs[0], tiny_model(family)) > 1e-2
    assert_close(weights(runs[1]), weights(runs[0]), 1e-6)
    assert_close(weights(runs[2]), weights(runs[0]), 1e-6)
    assert logged(runs[1], "loss") == pytest.approx(logged(runs[0], "loss"), rel=1e-5)


def test_accumulation_is_whole_where_a_models_own_loss_cannot_be(
    tiny_model, training_arguments, uneven, monkeypatch
):
    # As on transformers' Gemma 3n and 4: Trainer then counts no tokens of the whole step.
    monkeypatch.setattr(type(tiny_model("llama")), "accepts_loss_kwargs", False, raising=False)
    settings = {"optim": "sgd", "learning_rate": 0.1}
    whole, passes = (
        trained(
            tiny_model("llama"),
            training_arguments(
                per_device_train_batch_size=size, gradient_accumulation_steps=8 // size, **settings
            ),
            uneven,
        )
        for size in (8, 1)
    )
    assert_close(weights(passes), weights(whole), 1e-6)


@pytest.mark.parametrize("objective", ["mft", "ft"])
def test_the_logged_loss_is_that_of_a_plain_loop(tiny_model, training_arguments, uneven, objective):
    seen = []
    model = tiny_model("llama").eval()
    for example in uneven:
        # The teacher is right about what it wrote itself.
        start = torch.tensor(example["input_ids"][:8])[None]
        options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        written = model.generate(start, attention_mask=torch.ones_like(start), **options)[0, 8:]
        example["input_ids"][8:12] = written.tolist()
        kept = zip(example["labels"], example["input_ids"], strict=True)
        example["labels"] = [-100 if label == -100 else token for label, token in kept]

    def remembering(examples):
        seen.extend(examples)
        return collate(examples)

    args = training_arguments(
        objective=objective, max_steps=1, gradient_accumulation_steps=4, learning_rate=1e-30
    )
    trainer = trained(tiny_model("llama"), args, uneven, data_collator=remembering)
    total = count = right = 0
    for example in seen[:8]:
        with torch.no_grad():
            logits = model(torch.tensor(example["input_ids"])[None]).logits[0].double()
        for position, label in enumerate(example["labels"][1:]):
            if label == -100:
                continue
            p = logits[position].softmax(0)
            gap = p.max() - p[label]
            share = (gap + 0.25) / (1 + gap) if gap > 0 else min(1.0, 0.25 / (1 - p[label]))
            target = (1 - share) * p
            target[label] += share
            if objective == "ft":
                target = torch.nn.functional.one_hot(torch.tensor(label), 320).double()
            total -= float(target @ p.log())
            right += int(p.argmax() == label)
            count += 1
    assert 0.1 < right / count < 0.9
    assert logged(trainer, "loss") == [pytest.approx(total / count, rel=1e-5)]
    if objective == "mft":
        assert logged(trainer, "forward_kl") == [pytest.approx(0.0, abs=1e-5)]
        assert logged(trainer, "teacher_is_right") == [pytest.approx(right / count)]
    else:
        assert logged(trainer, "mixing") == []


# AdamW makes steps of the rounding errors that are the gradient of Phi's key bias.
@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {"learning_rate": 1e-3}),
        ("gpt_neo", {"learning_rate": 1e-3}),
        ("gemma2", {"learning_rate": 1e-3}),
        ("phi", {"learning_rate": 0.1, "optim": "sgd"}),
    ],
)
def test_finetuning_is_transformers_own_trainer_step_for_step(
    tiny_model, training_arguments, uneven, family, settings, tmp_path
):
    ours = trained(
        tiny_model(family),
        training_arguments(objective="ft", gradient_accumulation_steps=2, **settings),
        uneven,
    )
    theirs = Trainer(
        tiny_model(family),
        TrainingArguments(
            output_dir=str(tmp_path / "theirs"),
            max_steps=5,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            lr_scheduler_type="constant",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            remove_unused_columns=False,
            use_cpu=True,
            dataloader_pin_memory=False,
            disable_tqdm=True,
            **settings,
        ),
        train_dataset=uneven,
        data_collator=collate,
    )
    theirs.train()
    assert moved(ours, tiny_model(family)) > 1e-3
    assert_close(weights(ours), weights(theirs), 2e-5)
    if theirs.model_accepts_loss_kwargs:
        assert logged(ours, "loss") == pytest.approx(logged(theirs, "loss"), rel=1e-5)


@pytest.mark.parametrize("adapter", [None, LoraConfig(r=2, task_type="CAUSAL_LM")])
def test_minifinetuning_with_tau_one_is_finetuning(tiny_model, training_arguments, uneven, adapter):
    settings = {"optim": "sgd", "learning_rate": 0.1}
    runs = [
        trained(
            tiny_model("llama"),
            training_arguments(**settings, **objective),
            uneven,
            peft_config=copy.deepcopy(adapter),
        )
        for objective in ({"objective": "mft", "tau": 1.0}, {"objective": "ft"}, {"tau": 0.25})
    ]
    assert_close(weights(runs[0]), weights(runs[1]), 1e-6)
    other = weights(runs[2])
    assert max((other[name] - v).abs().max() for name, v in weights(runs[1]).items()) > 1e-3


@pytest.mark.parametrize("adapter", [None, LoraConfig(r=2, task_type="CAUSAL_LM")])
def test_gradient_checkpointing_changes_no_weight(tiny_model, training_arguments, uneven, adapter):
    plain, thrifty = (
        trained(
            tiny_model("llama"),
            training_arguments(gradient_checkpointing=checkpointing),
            uneven,
            peft_config=copy.deepcopy(adapter),
        )
        for checkpointing in (False, True)
    )
    assert_close(weights(thrifty), weights(plain), 1e-6)


def test_adapters_are_made_from_the_seed_and_only_they_train(
    tiny_model, training_arguments, uneven
):
    config = LoraConfig(r=2, task_type="CAUSAL_LM")
    runs = []
    for noise in (1, 2):
        model = tiny_model("llama")
        torch.manual_seed(noise)
        runs.append(trained(model, training_arguments(), uneven, peft_config=copy.deepcopy(config)))
    assert_close(weights(runs[0]), weights(runs[1]), 0)
    base = dict(tiny_model("llama").named_parameters())
    for name, value in weights(runs[0]).items():
        if "lora_" not in name:
            own = name.removeprefix("base_model.model.").replace(".base_layer", "")
            assert torch.equal(value, base[own]), name
    assert any(bool(v.any()) for n, v in weights(runs[0]).items() if "lora_B" in n)


@pytest.mark.parametrize("adapter", [None, LoraConfig(r=2, task_type="CAUSAL_LM")])
def test_bfloat16_autocast_stays_near_float32(tiny_model, training_arguments, uneven, adapter):
    wide, narrow = (
        trained(
            tiny_model("llama"),
            training_arguments(bf16=bf16, optim="sgd", learning_rate=0.1),
            uneven,
            peft_config=copy.deepcopy(adapter),
        )
        for bf16 in (False, True)
    )
    assert all(value.dtype == torch.float32 for value in weights(narrow).values())
    assert logged(narrow, "loss") == pytest.approx(logged(wide, "loss"), rel=1e-2)
    assert logged(narrow, "loss") != logged(wide, "loss")
    # The teacher rounds as the student does, so at the first step the two are the same model.
    assert logged(narrow, "forward_kl")[0] == pytest.approx(0.0, abs=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_torch_compile_changes_the_weights_by_rounding_only(tiny_model, training_arguments, uneven):
    plain, compiled = (
        trained(
            tiny_model("llama", num_hidden_layers=1),
            training_arguments(
                torch_compile=compile_it, optim="sgd", learning_rate=0.1, max_steps=2
            ),
            uneven,
        )
        for compile_it in (False, True)
    )
    assert_close(weights(compiled), weights(plain), 1e-4)


def test_the_outputs_come_along_when_asked_for(tiny_model, training_arguments, uneven):
    trainer = MFTTrainer(tiny_model("llama"), training_arguments(), train_dataset=uneven)
    trainer.model.eval()
    batch = collate(uneven[:3])
    loss, outputs = trainer.compute_loss(trainer.model, dict(batch), return_outputs=True)
    expected = tiny_model("llama").eval()(input_ids=batch["input_ids"]).logits
    torch.testing.assert_close(outputs.logits, expected, rtol=1e-5, atol=1e-5)
    count = (batch["labels"] != -100).sum()
    torch.testing.assert_close(loss, outputs.loss / count)
    torch.testing.assert_close(trainer.compute_loss(trainer.model, dict(batch)), loss)
    of_seven = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=7)
    torch.testing.assert_close(of_seven, outputs.loss / 7)


def test_the_teacher_is_the_model_that_was_given_not_one_loaded_by_name(
    tmp_path, tiny_model, training_arguments, uneven, tokenizer
):
    tiny_model("llama").save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    by_name = trained(str(tmp_path / "base"), training_arguments(), uneven)
    by_model = trained(tiny_model("llama"), training_arguments(), uneven)
    assert_close(weights(by_name), weights(by_model), 0)
    assert by_name.processing_class.eos_token == "<eos>"
    by_gone_name = MFTTrainer(str(tmp_path / "base"), training_arguments(), uneven)
    shutil.rmtree(tmp_path / "base")
    by_gone_name.train()
    assert_close(weights(by_gone_name), weights(by_model), 0)


def test_a_step_without_a_single_label_changes_nothing(
    tiny_model, training_arguments, random_sequences
):
    data = random_sequences(8)
    trainer = MFTTrainer(tiny_model("llama"), training_arguments(weight_decay=0.0), data)
    # A text without any label at all would be refused.
    for example in data:
        example["labels"] = [-100] * 16
    trainer.train()
    assert_close(weights(trainer), dict(tiny_model("llama").named_parameters()), 0)
    assert logged(trainer, "loss") == [0.0] * 5


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed"
)
def test_tensorboard_gets_the_log(tiny_model, training_arguments, uneven, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    trained(tiny_model("llama"), training_arguments(report_to="tensorboard"), uneven)
    assert list((tmp_path / "board").rglob("events.out.tfevents.*"))
