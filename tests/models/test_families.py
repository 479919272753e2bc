"""Every family that users bring, through all that is done with a model, against transformers' own.

What it takes to be in the table: see families.py.
"""

import copy
import re
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import Mistral3Config, T5Config

from minifinetuning.blending.weight_line import WeightBlend
from minifinetuning.data.batches import collate
from minifinetuning.errors import InputError
from minifinetuning.models.adapters import adapter_config
from minifinetuning.models.causal import check_halves, hidden_states, output_head, predicting
from minifinetuning.models.config import ModelConfig
from minifinetuning.models.loading import load_model, model_limit
from minifinetuning.objectives import finetuning
from minifinetuning.ops import linear_distillation
from minifinetuning.training.trainer import MFTTrainer

FAMILIES = runpy.run_path(str(Path(__file__).with_name("families.py")))["FAMILIES"]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def model(family):
    """What no test changes: a run is on a copy of it."""
    return family.model()


@pytest.fixture(scope="module")
def text(model):
    """Two sequences of unequal length. Of every third label the model is the surest."""
    made = []
    for length in (16, 11):
        tokens = torch.randint(1, 128, (length,), generator=torch.Generator().manual_seed(length))
        labels = tokens.clone()
        labels[3::3] = logits(model, {"input_ids": tokens[None]})[0, 2:-1:3].argmax(1)
        made.append({"input_ids": tokens.tolist(), "labels": labels.tolist()})
    return made


@pytest.fixture
def trained(model, text, training_arguments):
    """`trained(adapter=None, **arguments)`: the trainer after a step on both sequences, or more."""

    def make(adapter=None, **arguments):
        trainer = MFTTrainer(
            model=copy.deepcopy(model),
            args=training_arguments(**({"max_steps": 1, "teacher_cache": "none"} | arguments)),
            train_dataset=text,
            peft_config=adapter_config(adapter, model) if adapter else None,
        )
        trainer.train()
        trainer.model.eval()
        return trainer

    return make


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def papers_loss(student, teacher, labels, tau=0.25):
    """Section 2 in float64, token by token: the mean loss, and how often the teacher is right."""
    values, right = [], []
    for sequence, (z_student, z_teacher) in enumerate(zip(student, teacher, strict=True)):
        for position, label in enumerate(labels[sequence, 1:].tolist()):
            if label == -100:
                continue
            p = z_teacher[position].double().softmax(0)
            gap = p.max() - p[label]
            share = (gap + tau) / (1 + gap) if gap > 0 else min(1.0, tau / (1 - p[label]))
            corrected = (1 - share) * p
            corrected[label] += share
            values.append(-float(corrected @ z_student[position].double().log_softmax(0)))
            right.append(bool(gap == 0))
    return sum(values) / len(values), sum(right) / len(right)


def test_logits_and_losses_are_the_models_own(family, model, text):
    check_halves(model)
    check_halves(copy.deepcopy(model).bfloat16())
    head = output_head(model)
    assert (head.bias is not None, head.scale) == (family.bias, family.scale)
    assert head.soft_cap == family.soft_cap
    batch = collate(text)
    labels = batch["labels"][:, 1:].flatten()
    with torch.no_grad():
        hidden = predicting(hidden_states(model, batch))
        got = linear_distillation(hidden, head, labels, finetuning)
    own = logits(model, batch)
    assert own.std() > 0.2
    torch.testing.assert_close(head.logits(hidden), predicting(own), rtol=1e-5, atol=1e-5)
    expected = cross_entropy(predicting(own).double(), labels, reduction="none").float()
    torch.testing.assert_close(got.negative_log_likelihood, expected, rtol=1e-5, atol=1e-5)


def test_what_a_family_is_known_for_is_at_work_in_its_tiny_model(family, model, text):
    batch = collate(text)
    for name, value in family.plain.items():
        ordinary = family.model(**{name: value})
        ordinary.load_state_dict(model.state_dict())
        assert (logits(ordinary, batch) - logits(model, batch)).abs().max() > 0.1, name


def test_a_step_of_finetuning_is_that_of_transformers_own_loss(model, text, trained):
    trainer = trained(objective="ft", optim="sgd", learning_rate=0.1, max_grad_norm=0.0)
    own = copy.deepcopy(model)
    loss = own(**collate(text)).loss
    loss.backward()
    assert losses(trainer) == [pytest.approx(loss.item(), rel=1e-5)]
    after = weights(trainer.model)
    for name, start in own.named_parameters():
        expected = start.detach() if start.grad is None else start.detach() - 0.1 * start.grad
        torch.testing.assert_close(after[name], expected, rtol=0, atol=1e-6)


def test_a_step_of_minifinetuning_has_the_papers_loss(family, model, text, trained):
    trainer = trained(tau=0.25)
    batch = collate(text)
    start = logits(model, batch)
    expected, right = papers_loss(start, start, batch["labels"])
    assert 0.1 < right < 0.9
    assert losses(trainer) == [pytest.approx(expected, rel=1e-5)]
    teacher = weights(trainer.teacher.model)
    assert all(torch.equal(teacher[name], value) for name, value in weights(model).items())
    still = {
        name for name, value in weights(trainer.model).items() if torch.equal(value, teacher[name])
    }
    assert still == {name for name in teacher if any(part in name for part in family.beside)}
    # By now the student is no longer its teacher.
    expected, _ = papers_loss(logits(trainer.model, batch), start, batch["labels"])
    loss = trainer.compute_loss(trainer.model, dict(batch)).item()
    assert loss == pytest.approx(expected, rel=1e-5)


def test_gradient_checkpointing_changes_no_weight(trained):
    plain, thrifty = (weights(trained(gradient_checkpointing=each).model) for each in (False, True))
    for name, value in thrifty.items():
        torch.testing.assert_close(value, plain[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("adapter", ["lora", "dora", "ia3"])
def test_an_adapter_is_on_the_projections_of_each_layer_and_learns(family, model, trained, adapter):
    adapted = trained(adapter).model
    layers = [(path, each) for path, each in adapted.named_modules() if hasattr(each, "base_layer")]
    paths = [re.fullmatch(r".*\.(?:layers|h)\.(\d)\.(.+)", path).groups() for path, _ in layers]
    expected = (family.scaled if adapter == "ia3" else family.projections).split()
    assert sorted(paths) == sorted((layer, path) for layer in "01" for path in expected)
    if adapter == "ia3":
        last = {
            path for (_, path), (_, each) in zip(paths, layers, strict=True) if each.is_feedforward
        }
        assert last == {expected[-1]}
    before = weights(model)
    for name, value in adapted.named_parameters():
        own = name.removeprefix("base_model.model.").replace(".base_layer", "")
        if own in before:
            assert torch.equal(value, before[own]), name
        elif "lora_B" in name:
            assert value.any(), name
        elif "ia3" in name:
            assert not (value == 1).all(), name


def test_training_from_hidden_states_is_bit_for_bit_training_without(trained):
    live, cached = (trained(teacher_cache=kind, max_steps=2) for kind in ("none", "hidden"))
    assert cached.cache_plan.kind == "hidden"
    assert losses(cached) == losses(live)
    after = weights(live.model)
    assert all(torch.equal(value, after[n]) for n, value in weights(cached.model).items())


def test_an_adapter_trains_from_expected_embeddings_as_from_the_live_teacher(family, trained):
    live, cached = (
        trained("lora", teacher_cache=kind, max_steps=2) for kind in ("none", "expected")
    )
    if family.soft_cap:
        assert cached.cache_plan.kind == "hidden"
        assert cached.cache_plan.reason == "not expected embeddings: the model caps its logits"
        assert losses(cached) == losses(live)
    else:
        assert cached.cache_plan.kind == "expected"
        assert losses(cached) == pytest.approx(losses(live), rel=1e-5)
    after = weights(live.model)
    for name, value in weights(cached.model).items():
        torch.testing.assert_close(value, after[name], rtol=1e-3, atol=2e-5)


def test_what_is_saved_comes_back_and_writes(model, text, trained, tmp_path):
    trainer = trained()
    trainer.save_model(str(tmp_path))
    loaded = load_model(str(tmp_path)).eval()
    assert type(loaded) is type(model)
    batch = collate(text)
    assert torch.equal(logits(loaded, batch), logits(trainer.model, batch))
    assert model_limit(str(tmp_path)) == 64
    tokens = batch["input_ids"][:1]
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    written = loaded.generate(tokens, attention_mask=torch.ones_like(tokens), **options)
    for _ in range(6):
        tokens = torch.cat([tokens, logits(loaded, {"input_ids": tokens})[:, -1:].argmax(2)], 1)
    assert torch.equal(written, tokens)


def test_what_published_checkpoints_hold_beside_weights_is_passed_over(family, model, tmp_path):
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    first = f".0.{family.projections.split()[0]}.weight"
    layer = next(name.removesuffix(first) for name in tensors if name.endswith(first))
    for leftover in family.leftovers.split():
        tensors |= {f"{layer}.{number}.{leftover}": torch.ones(3) for number in (0, 1)}
    save_file(tensors, file, metadata={"format": "pt"})
    loaded = load_model(str(tmp_path))
    before, after = weights(model), weights(loaded)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], value) for name, value in after.items())
    # A blend takes no notice of them either.
    blend = WeightBlend(ModelConfig(str(tmp_path)), ModelConfig(str(tmp_path)))
    moved = blend.load()
    blend.apply(moved, 0.5)
    assert all(torch.equal(before[name], value) for name, value in weights(moved).items())


def test_an_adapter_is_saved_by_itself_and_merges(model, text, trained, tmp_path):
    model.save_pretrained(tmp_path / "base")
    trainer = trained("lora", learning_rate=0.1)
    trainer.model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    trainer.save_model(str(tmp_path / "adapter"))
    batch = collate(text)
    expected = logits(trainer.model, batch)
    assert (expected - logits(model, batch)).abs().max() > 0.1
    got = logits(load_model(str(tmp_path / "adapter")).eval(), batch)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", [Mistral3Config, T5Config])
def test_what_transformers_has_no_causal_model_for_is_refused_in_one_sentence(config, tmp_path):
    config().save_pretrained(tmp_path)
    kind = config.__name__.removesuffix("Config")
    with pytest.raises(
        InputError, match=f"none of the kind {kind}; give a model that only .* text$"
    ):
        load_model(str(tmp_path))
