"""Teachers give the starting model's hidden states, whatever happens to the student."""

import copy

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model

from minifinetuning.errors import InputError
from minifinetuning.models.adapters import adapter_config
from minifinetuning.models.causal import hidden_states
from minifinetuning.teacher.live import AdaptersOff, FrozenCopy, teacher_of


@pytest.fixture
def batch():
    tokens = torch.randint(0, 320, (2, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens)
    mask[1, 7:] = 0
    return {"input_ids": tokens, "attention_mask": mask}


def lora(model, **changes):
    return get_peft_model(model, LoraConfig(r=2, task_type="CAUSAL_LM", **changes))


def train(model, batch, steps=3):
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(steps):
        model(**batch, labels=batch["input_ids"]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("adapter", ["lora", "dora", "ia3"])
@pytest.mark.parametrize("family", ["llama", "phi", "gpt_neo"])
def test_adapters_off_is_the_frozen_base_before_and_after_training(
    tiny_model, batch, family, adapter
):
    base = tiny_model(family)
    frozen = FrozenCopy(base)
    expected = frozen.hidden_states(batch)
    student = get_peft_model(base, adapter_config(adapter, base, rank=2))
    teacher = teacher_of(student)
    assert isinstance(teacher, AdaptersOff)
    assert torch.equal(teacher.hidden_states(batch), expected)
    train(student, batch)
    with torch.no_grad():
        assert (hidden_states(student.eval(), batch) - expected).abs().max() > 1e-2
    assert torch.equal(teacher.hidden_states(batch), expected)
    assert torch.equal(teacher.head.weight, frozen.head.weight)
    assert not teacher.head.weight.requires_grad


@pytest.mark.parametrize("family", ["llama", "gemma", "phi"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_frozen_copy_stays_when_the_student_trains(tiny_model, batch, family, tied):
    student = tiny_model(family, tie_word_embeddings=tied)
    assert (student.get_output_embeddings().weight is student.get_input_embeddings().weight) == tied
    start = copy.deepcopy(student)
    with torch.no_grad():
        expected = start.eval()(**batch).logits
    teacher = teacher_of(student)
    assert isinstance(teacher, FrozenCopy)
    train(student, batch)
    got = teacher.head.logits(teacher.hidden_states(batch))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(teacher.head.weight, start.get_output_embeddings().weight)
    assert not torch.allclose(student.get_output_embeddings().weight, teacher.head.weight)
    assert not got.requires_grad
    assert all(p.requires_grad for p in student.parameters())


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_teacher_has_no_dropout_and_leaves_the_students_alone(tiny_model, batch, kind):
    start = tiny_model("llama").eval()
    with torch.no_grad():
        expected = hidden_states(start, batch)
    student = tiny_model("llama", attention_dropout=0.5)
    if kind == "lora":
        student = lora(student, lora_dropout=0.5)
    student.train()
    teacher = teacher_of(student)
    quiet = next(m for m in student.modules() if type(m).__name__ == "LlamaMLP").eval()
    modes = [module.training for module in student.modules()]
    for _ in range(2):
        assert torch.equal(teacher.hidden_states(batch), expected)
        assert modes == [module.training for module in student.modules()]
    assert student.training
    assert not quiet.training
    first, second = hidden_states(student, batch), hidden_states(student, batch)
    assert not torch.equal(first, second)
    assert first.requires_grad


def test_the_teacher_does_not_disturb_the_students_random_numbers(tiny_model, batch):
    student = lora(tiny_model("llama", attention_dropout=0.5)).train()
    teacher = teacher_of(student)
    torch.manual_seed(3)
    expected = hidden_states(student, batch)
    torch.manual_seed(3)
    teacher.hidden_states(batch)
    assert torch.equal(hidden_states(student, batch), expected)


def test_the_student_keeps_its_adapters_and_their_gradients(tiny_model, batch):
    student = lora(tiny_model("llama"))
    trainable = {n for n, p in student.named_parameters() if p.requires_grad}
    teacher = teacher_of(student)
    teacher.hidden_states(batch)
    assert {n for n, p in student.named_parameters() if p.requires_grad} == trainable
    hidden_states(student, batch).sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())


def set_adapters(model):
    """Give every lora_B a value, as in an adapter that was trained before."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return model


def merged(model):
    model.merge_adapter()
    return model


REFUSED = {
    "trained biases": (lambda model: lora(model, bias="all"), 'bias="all"'),
    "lora biases": (lambda model: lora(model, bias="lora_only"), 'bias="lora_only"'),
    "pissa": (lambda model: lora(model, init_lora_weights="pissa"), '"pissa" rewrites the base'),
    "olora": (lambda model: lora(model, init_lora_weights="olora"), '"olora" rewrites the base'),
    "resumed": (lambda model: set_adapters(lora(model)), "start from a fresh adapter"),
    "away from zero": (lambda model: lora(model, init_lora_weights=False), "fresh adapter"),
    "merged": (lambda model: merged(lora(model)), "merged into the weights: unmerge it first"),
    "trained and merged": (lambda model: merged(set_adapters(lora(model))), "unmerge it first"),
    "prompt": (
        lambda model: get_peft_model(
            model, PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
        ),
        "PROMPT_TUNING works on the prompt",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_adapters_that_cannot_be_switched_off_faithfully_are_refused(tiny_model, case):
    make, reason = REFUSED[case]
    student = make(tiny_model("qwen2", tie_word_embeddings=False))
    with pytest.raises(InputError) as caught:
        teacher_of(student)
    message = str(caught.value)
    assert message.startswith("the adapter cannot serve as its own teacher: ")
    assert reason in message
    assert "\n" not in message


def test_whole_modules_that_are_trained_beside_the_adapter_do_not_reach_the_teacher(
    tiny_model, batch
):
    base = tiny_model("llama")
    expected = FrozenCopy(base).hidden_states(batch)
    student = lora(base, modules_to_save=["embed_tokens"])
    teacher = teacher_of(student)
    train(student, batch)
    assert torch.equal(teacher.hidden_states(batch), expected)
