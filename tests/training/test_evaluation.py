"""What an evaluation measures and logs, against perplexities of transformers' own loss."""

import copy
import logging
import math

import pytest
import torch
from peft import LoraConfig

from minifinetuning.errors import InputError
from minifinetuning.training.trainer import MFTTrainer


def perplexity(model, sequences):
    model.eval()
    losses = []
    for example in sequences:
        tokens = torch.tensor(example["input_ids"])[None]
        with torch.no_grad():
            losses.append(model(input_ids=tokens, labels=tokens).loss.item())
    return math.exp(sum(losses) / len(losses))


@pytest.fixture
def texts(validation_texts):
    return validation_texts


@pytest.fixture
def train(random_sequences):
    return random_sequences(40, 16, seed=3, vocabulary=20)


@pytest.mark.parametrize("objective", ["mft", "ft"])
@pytest.mark.parametrize(
    ("adapter", "learning_rate"),
    [(None, 1e-2), (LoraConfig(r=2, task_type="CAUSAL_LM"), 0.2)],
)
def test_figures_are_those_of_the_perplexities(
    tiny_model, training_arguments, texts, train, objective, adapter, learning_rate
):
    args = training_arguments(
        objective=objective,
        eval_strategy="steps",
        eval_steps=2,
        max_steps=4,
        learning_rate=learning_rate,
    )
    trainer = MFTTrainer(
        tiny_model("llama"),
        args,
        train_dataset=train,
        eval_dataset=texts,
        peft_config=copy.deepcopy(adapter),
    )
    trainer.train()
    before = {name: perplexity(tiny_model("llama"), text) for name, text in texts.items()}
    after = {name: perplexity(trainer.model, text) for name, text in texts.items()}
    entries = [entry for entry in trainer.state.log_history if "eval_specialization" in entry]
    assert [entry["step"] for entry in entries] == [2, 4]
    found = entries[-1]
    s = 100 * (before["specialized"] - after["specialized"]) / before["specialized"]
    dg = 100 * (after["general"] - before["general"]) / before["general"]
    assert s > 1
    assert dg > 1
    assert found["eval_specialized_perplexity"] == pytest.approx(after["specialized"], rel=1e-5)
    assert found["eval_general_perplexity"] == pytest.approx(after["general"], rel=1e-5)
    assert found["eval_loss"] == pytest.approx(math.log(after["specialized"]), rel=1e-5)
    assert found["eval_specialization"] == pytest.approx(s, rel=1e-3)
    assert found["eval_degeneralization"] == pytest.approx(dg, rel=1e-3)
    assert found["eval_ratio"] == pytest.approx(dg / s, rel=2e-3)
    assert found["eval_selection_perplexity"] == found["eval_specialized_perplexity"]
    assert "eval_forward_kl" not in found
    for name, score in trainer.reference.items():
        assert score.perplexity == pytest.approx(before[name], rel=1e-5)


def test_an_evaluation_before_training_is_the_reference(tiny_model, training_arguments, texts):
    trainer = MFTTrainer(tiny_model("llama"), training_arguments(), eval_dataset=texts)
    found = trainer.evaluate()
    assert found["eval_specialization"] == found["eval_degeneralization"] == 0
    assert "eval_ratio" not in found
    with torch.no_grad():
        trainer.model.lm_head.weight.mul_(0.1)
    again = trainer.evaluate(metric_key_prefix="test")
    assert again["test_specialization"] != 0
    expected = 100 * (
        1 - again["test_specialized_perplexity"] / found["eval_specialized_perplexity"]
    )
    assert again["test_specialization"] == pytest.approx(expected)


def test_another_text_has_a_perplexity_but_no_figures(tiny_model, training_arguments, texts):
    trainer = MFTTrainer(tiny_model("llama"), training_arguments(), eval_dataset=texts)
    found = trainer.evaluate(texts["general"])
    expected = perplexity(tiny_model("llama"), texts["general"])
    assert found["eval_specialized_perplexity"] == pytest.approx(expected, rel=1e-5)
    assert "eval_specialization" not in found
    assert trainer.reference is None


@pytest.mark.parametrize("objective", ["mft", "ft"])
@pytest.mark.parametrize("named", [True, False])
def test_without_general_text_the_kl_to_the_start_is_logged(
    tiny_model, training_arguments, texts, train, objective, named, caplog
):
    text = texts["specialized"]
    args = training_arguments(
        objective=objective, eval_strategy="steps", eval_steps=5, learning_rate=1e-2
    )
    with caplog.at_level(logging.WARNING):
        trainer = MFTTrainer(
            tiny_model("llama"),
            args,
            train_dataset=train,
            eval_dataset={"specialized": text} if named else text,
        )
    assert [record for record in caplog.records if "no general text" in record.message]
    trainer.train()
    start = tiny_model("llama").eval()
    total = 0.0
    for example in text:
        tokens = torch.tensor(example["input_ids"])[None]
        with torch.no_grad():
            p = start(input_ids=tokens).logits[0, :-1].double().log_softmax(1)
            q = trainer.model(input_ids=tokens).logits[0, :-1].double().log_softmax(1)
        total += float((p.exp() * (p - q)).sum())
    (found,) = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert total > 0.1
    assert found["eval_forward_kl"] == pytest.approx(total / (len(text) * 15), rel=1e-4)
    assert not {"eval_degeneralization", "eval_ratio", "eval_general_perplexity"} & found.keys()
    assert found["eval_selection_perplexity"] == found["eval_specialized_perplexity"]


def test_plain_finetuning_with_general_text_holds_no_teacher(tiny_model, training_arguments, texts):
    trainer = MFTTrainer(
        tiny_model("llama"), training_arguments(objective="ft"), eval_dataset=texts
    )
    assert trainer.teacher is None


@pytest.mark.parametrize("texts", [{"general": [{"input_ids": [1, 2]}]}, {"validation": []}])
def test_a_dict_without_a_specialized_text_is_refused(tiny_model, training_arguments, texts):
    with pytest.raises(InputError, match=f'needs the key "specialized", got {next(iter(texts))}'):
        MFTTrainer(tiny_model("llama"), training_arguments(), eval_dataset=texts)


def test_no_text_at_all_is_refused(tiny_model, training_arguments):
    trainer = MFTTrainer(tiny_model("llama"), training_arguments())
    with pytest.raises(InputError, match="no validation text: pass eval_dataset"):
        trainer.evaluate()


def test_a_model_that_cannot_be_trained_so_is_refused(
    tiny_model, training_arguments, texts, monkeypatch
):
    model = tiny_model("llama")
    own = type(model).forward

    def doctored(self, *args, **kwargs):
        outputs = own(self, *args, **kwargs)
        outputs.logits = outputs.logits * 2
        return outputs

    monkeypatch.setattr(type(model), "forward", doctored)
    with pytest.raises(InputError, match="not supported"):
        MFTTrainer(model, training_arguments(), eval_dataset=texts)
