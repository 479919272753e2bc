"""A model with the distillation loss inside its forward, against transformers' own loss."""

import copy
import math
import statistics
from unittest import mock

import pytest
import torch
from peft import LoraConfig, get_peft_model

from minifinetuning.models.causal import hidden_states, output_head, predicting
from minifinetuning.models.student import DistillationInputs, attach_distillation
from minifinetuning.objectives import finetuning, rule
from minifinetuning.ops import TeacherStates

FAMILIES = ["llama", "gpt_neo", "phi", "gemma2", "cohere", "granite", "nemotron"]


@pytest.fixture
def batch():
    tokens = torch.randint(1, 320, (3, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens)
    mask[1, 7:] = 0
    labels = tokens.masked_fill(mask == 0, -100)
    labels[2, :5] = -100
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("family", FAMILIES)
def test_finetuning_is_transformers_own_loss_times_the_tokens(tiny_model, batch, family):
    model = tiny_model(family)
    own = model(**batch)
    own.loss.backward()
    expected = {name: value.grad.clone() for name, value in model.named_parameters()}
    model.zero_grad()
    attach_distillation(model)
    output = model(**batch, distillation=DistillationInputs(finetuning, with_logits=True))
    (output.loss / output.tokens).backward()
    tokens = (batch["labels"][:, 1:] != -100).sum()
    assert output.tokens == tokens
    torch.testing.assert_close(output.loss, own.loss * tokens, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.logits, own.logits, rtol=1e-5, atol=1e-5)
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.grad, expected[name], rtol=1e-4, atol=1e-5, msg=name)


def test_minifinetuning_is_the_papers_loss_in_a_plain_loop(tiny_model, batch):
    model = tiny_model("llama")
    teacher = tiny_model("gemma")
    with torch.no_grad():
        teacher_hidden = hidden_states(teacher, batch)
        student_logits, teacher_logits = model(**batch).logits, teacher(**batch).logits
    attach_distillation(model)
    output = model(
        **batch,
        distillation=DistillationInputs(
            rule("mft", 0.25),
            TeacherStates(predicting(teacher_hidden), output_head(teacher).detached()),
        ),
    )
    expected = 0.0
    for row in range(3):
        for position in range(11):
            label = int(batch["labels"][row, position + 1])
            if label == -100:
                continue
            p = teacher_logits[row, position].double().softmax(0)
            gap = p.max() - p[label]
            share = (gap + 0.25) / (1 + gap) if gap > 0 else min(1.0, 0.25 / (1 - p[label]))
            target = (1 - share) * p
            target[label] += share
            expected -= target @ student_logits[row, position].double().log_softmax(0)
    torch.testing.assert_close(output.loss.double(), expected, rtol=1e-5, atol=1e-5)


def talr_by_hand(logits, labels):
    """The sum over a batch of TALR's loss, as its authors write it, in float64 with autograd."""
    losses, means = [], []
    for row in range(len(labels)):
        log_student = logits[row, :-1].double().log_softmax(1)
        positions = [t for t in range(labels.shape[1] - 1) if labels[row, t + 1] != -100]
        own = [-log_student[t, labels[row, t + 1]] for t in positions]
        if own:
            losses += own
            means.append(sum(loss.item() for loss in own) / len(own))
    temperature = statistics.median(means)
    return sum(max(math.exp(-loss.item() / temperature), 0.01) * loss for loss in losses)


@pytest.mark.parametrize("family", ["llama", "phi", "gemma2", "granite"])
@pytest.mark.parametrize("sequences", [1, 2, 3])
def test_a_temperature_of_the_batch_is_found_inside_the_forward(
    tiny_model, batch, family, sequences
):
    batch = {name: values[:sequences] for name, values in batch.items()}
    model = tiny_model(family)
    expected = talr_by_hand(model(**batch).logits, batch["labels"])
    expected.backward()
    gradients = {name: value.grad.clone() for name, value in model.named_parameters()}
    model.zero_grad()
    attach_distillation(model)
    output = model(**batch, distillation=DistillationInputs(rule("talr")))
    output.loss.backward()
    torch.testing.assert_close(output.loss.double(), expected, rtol=1e-5, atol=1e-5)
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.grad, gradients[name], rtol=1e-4, atol=1e-5, msg=name)


def test_a_sequence_without_labels_has_no_say_in_the_temperature(tiny_model, batch):
    model = tiny_model("llama")
    batch["labels"][0] = -100
    expected = talr_by_hand(model(**batch).logits, batch["labels"])
    attach_distillation(model)
    output = model(**batch, distillation=DistillationInputs(rule("talr")))
    torch.testing.assert_close(output.loss.double(), expected, rtol=1e-5, atol=1e-5)


def test_only_a_temperature_costs_a_product_more(tiny_model, batch):
    model = tiny_model("llama")
    attach_distillation(model)
    products = {}
    for objective in ("ft", "eaft", "talr"):
        with mock.patch.object(torch, "mm", wraps=torch.mm) as product:
            model(**batch, distillation=DistillationInputs(rule(objective)))
        products[objective] = product.call_count
    assert products == {"ft": 2, "eaft": 2, "talr": 3}


@pytest.mark.parametrize("family", FAMILIES)
def test_without_distillation_the_forward_is_what_it_was(tiny_model, batch, family):
    model = tiny_model(family).eval()
    expected = model(**batch, output_hidden_states=True)
    attach_distillation(model)
    got = model(**batch, output_hidden_states=True)
    assert type(got) is type(expected)
    assert torch.equal(got.logits, expected.logits)
    assert torch.equal(got.loss, expected.loss)
    assert len(got.hidden_states) == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_still_works(tiny_model, family):
    model = tiny_model(family).eval()
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    tokens = torch.tensor([[3, 14, 15, 92]])
    mask = torch.ones_like(tokens)
    expected = model.generate(tokens, attention_mask=mask, **options)
    attach_distillation(model)
    got = model.generate(tokens, attention_mask=mask, **options)
    assert got.shape == (1, 12)
    assert torch.equal(got, expected)


def test_a_copy_calls_its_own_weights(tiny_model, batch):
    model = tiny_model("llama")
    attach_distillation(model)
    twin = copy.deepcopy(model)
    before = model(**batch).logits
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(0.5)
    inputs = DistillationInputs(finetuning, with_logits=True)
    assert torch.equal(model(**batch).logits, before)
    assert not torch.allclose(twin(**batch).logits, before)
    assert not torch.allclose(twin(**batch, distillation=inputs).logits, before)
    assert twin.forward.__self__ is twin


def test_the_loss_runs_inside_the_forward_of_a_peft_model(tiny_model, batch):
    expected = tiny_model("llama")(**batch).loss
    model = get_peft_model(tiny_model("llama"), LoraConfig(r=2, task_type="CAUSAL_LM"))
    attach_distillation(model.get_base_model())
    output = model(**batch, distillation=DistillationInputs(finetuning))
    output.loss.backward()
    torch.testing.assert_close(output.loss, expected * output.tokens, rtol=1e-5, atol=1e-5)
    trained = {name for name, value in model.named_parameters() if value.grad is not None}
    assert trained
    assert all("lora_" in name for name in trained)


@pytest.mark.parametrize("objective", ["ft", "eaft", "talr"])
def test_all_labels_masked_is_a_zero_that_is_still_in_the_graph(tiny_model, batch, objective):
    model = tiny_model("llama")
    attach_distillation(model)
    batch["labels"] = torch.full_like(batch["labels"], -100)
    output = model(**batch, distillation=DistillationInputs(rule(objective)))
    output.loss.backward()
    assert output.loss == 0
    assert output.tokens == 0
    assert all((value.grad == 0).all() for value in model.parameters() if value.grad is not None)
    assert model.model.layers[0].mlp.up_proj.weight.grad is not None
