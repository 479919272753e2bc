"""Perplexities of texts, against loops over transformers' own loss."""

import math
from contextlib import nullcontext

import numpy
import pytest
import torch
from peft import LoraConfig, get_peft_model

from minifinetuning.data import Marks, TokenizedDocument, pack_documents
from minifinetuning.data.batches import collate
from minifinetuning.evaluation.comparison import comparison
from minifinetuning.evaluation.scores import text_scores
from minifinetuning.teacher.live import teacher_of
from minifinetuning.teacher.writing import SelfWritten


def own_losses(model, sequences):
    """Per sequence, transformers' mean loss times its number of predicted tokens."""
    losses, counts = [], []
    model.eval()
    for example in sequences:
        tokens = torch.as_tensor(example["input_ids"])[None]
        labels = torch.as_tensor(example.get("labels", example["input_ids"]))[None]
        with torch.no_grad():
            loss = model(input_ids=tokens, labels=labels).loss
        count = int((labels[:, 1:] != -100).sum())
        losses.append(float(loss) * count if count else 0.0)
        counts.append(count)
    return torch.tensor(losses, dtype=torch.float64), torch.tensor(counts)


@pytest.fixture
def ragged(random_sequences):
    """Sequences of different lengths, some with masked labels."""
    made = [random_sequences(1, length, seed=length)[0] for length in (5, 16, 9, 2, 13)]
    labels = list(made[1]["input_ids"])
    labels[:10] = [-100] * 10
    made[1]["labels"] = labels
    return made


@pytest.mark.parametrize("family", ["llama", "phi", "gemma2", "cohere", "gpt_neo", "opt"])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_perplexities_are_those_of_transformers_own_loss(tiny_model, ragged, family, batch_size):
    model = tiny_model(family)
    losses, counts = own_losses(model, ragged)
    scores = text_scores(model, ragged, batch_size=batch_size)
    assert torch.equal(scores.losses.tokens, counts)
    torch.testing.assert_close(scores.losses.negative_log_likelihood, losses, rtol=1e-4, atol=1e-4)
    expected = math.exp(float(losses.sum()) / int(counts.sum()))
    assert scores.perplexity == pytest.approx(expected, rel=1e-5)
    assert scores.forward_kl is None
    assert scores.mean_forward_kl is None


def test_a_batch_is_padded_at_its_end_and_the_first_token_is_no_label():
    batch = collate(
        [
            {"input_ids": [5, 6, 7, 8], "attention_mask": [1, 1, 1, 0], "text": "ignored"},
            {"input_ids": torch.tensor([9, 10]), "labels": [9, 11]},
        ]
    )
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [9, 10, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7, -100], [-100, 11, -100, -100]]
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


def test_collating_leaves_the_examples_as_they_are():
    example = {"input_ids": torch.tensor([5, 6]), "labels": torch.tensor([5, 6])}
    collate([example])
    assert example["labels"].tolist() == [5, 6]


def test_forward_kl_is_that_of_the_full_distributions(tiny_model, ragged):
    base = tiny_model("llama")
    student = get_peft_model(base, LoraConfig(r=2, task_type="CAUSAL_LM"))
    teacher = teacher_of(student)
    assert text_scores(student, ragged, teacher=teacher).mean_forward_kl == pytest.approx(
        0.0, abs=1e-6
    )
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    start = tiny_model("llama").eval()
    student.eval()
    total = 0.0
    for example in ragged:
        tokens = torch.tensor(example["input_ids"])[None]
        with torch.no_grad():
            p = start(input_ids=tokens).logits[0].double().log_softmax(1)
            q = student(input_ids=tokens).logits[0].double().log_softmax(1)
        labels = example.get("labels", example["input_ids"])
        kept = [i for i in range(tokens.numel() - 1) if labels[i + 1] != -100]
        total += float((p.exp() * (p - q)).sum(1)[kept].sum())
    scores = text_scores(student, ragged, batch_size=2, teacher=teacher)
    assert total > 1
    assert float(scores.forward_kl.sum()) == pytest.approx(total, rel=1e-5)
    assert scores.mean_forward_kl == pytest.approx(total / int(scores.losses.tokens.sum()))


def test_the_shares_of_the_processes_add_up_to_the_whole(tiny_model, ragged):
    model = tiny_model("llama")
    whole = text_scores(model, ragged, batch_size=1)
    shares = [text_scores(model, ragged, batch_size=1, process=(rank, 3)) for rank in range(3)]
    parts = [share.losses.negative_log_likelihood for share in shares]
    assert torch.equal(sum(parts), whole.losses.negative_log_likelihood)
    assert all(torch.equal(share.losses.tokens, whole.losses.tokens) for share in shares)
    assert [int((part > 0).sum()) for part in parts] == [2, 2, 1]


def by_hand(model, stream, length, openings, end):
    """{document: [nats, tokens]} of the text positions, and [nats, count] of the ends, in float64.

    Each token is predicted once, from the tokens before it in its sequence; `stream` holds
    (token, document).
    """
    texts, ends = {}, [0.0, 0]
    tokens = [token for token, _ in stream]
    for start in range(0, len(tokens) - 1, length - 1):
        part = tokens[start : start + length]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([part])).logits[0].double()
        for place in range(1, len(part)):
            token, document = stream[start + place]
            loss = -float(logits[place - 1].log_softmax(0)[token])
            if token == end:
                ends = [ends[0] + loss, ends[1] + 1]
            elif token not in openings:
                nats, count = texts.get(document, (0.0, 0))
                texts[document] = [nats + loss, count + 1]
    return texts, ends


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("length", [4, 7, 64])
def test_text_alone_is_scored_document_by_document(tiny_model, batch_size, length):
    model = tiny_model("llama").eval()
    bos, eos = 1, 0
    contents = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14], [15, 16, 17, 18]]
    made = [[bos, *content, eos] for content in contents]
    packed = pack_documents(
        [TokenizedDocument(str(n), numpy.array(ids)) for n, ids in enumerate(made)],
        length,
        eos,
        marks=Marks(eos, frozenset({bos})),
    )
    stream = [(token, number) for number, ids in enumerate(made) for token in ids]
    texts, ends = by_hand(model, stream, length, {bos}, eos)
    scores = text_scores(model, packed, batch_size=batch_size)
    assert scores.sequences == len(packed)
    for document, (nats, count) in texts.items():
        own = scores.losses.documents == document
        assert int(scores.losses.tokens[own].sum()) == count
        found = float(scores.losses.negative_log_likelihood[own].sum())
        assert found == pytest.approx(nats, rel=1e-5)
    assert scores.losses.document_count == 4
    assert scores.ends.documents == ends[1] == 4
    assert scores.ends.negative_log_likelihood == pytest.approx(ends[0], rel=1e-5)
    assert int(scores.losses.tokens.sum()) == 14


def test_what_is_learnt_of_where_documents_end_is_no_specialization(tiny_model):
    # A model that differs in its bias for EOS alone, renormalized: text positions lose by it.
    contents = [[5, 6, 7, 0], [8, 9, 0], [10, 11, 12, 13, 0]]
    packed = pack_documents(
        [TokenizedDocument(str(n), numpy.array(ids)) for n, ids in enumerate(contents)],
        16,
        0,
        marks=Marks(0),
    )
    before = text_scores(tiny_model("phi"), packed)
    tuned = tiny_model("phi")
    with torch.no_grad():
        tuned.lm_head.bias[0] += 3
    after = text_scores(tuned, packed)
    found = comparison({"specialized": before}, {"specialized": after})
    assert found["specialization"] < 0
    ends = found["end_of_document"]["specialized"]
    assert ends["documents"] == 3
    assert ends["tuned_perplexity"] < ends["reference_perplexity"]
    assert found["validation"] == {
        "specialized": {"documents": 3, "sequences": 1, "tokens": 9},
        "general": None,
    }


def test_what_the_model_wrote_is_scored_without_the_ends_that_it_wrote(tiny_model):
    tokens = torch.tensor([[0, 5, 6, 0, 7], [0, 8, 9, 10, 11]])
    scores = text_scores(tiny_model("llama"), SelfWritten(tokens, end=0))
    assert scores.losses.tokens.tolist() == [3, 4]
    assert scores.losses.document_count == 2
    assert scores.ends.documents == 1


def test_scoring_leaves_the_mode_of_the_model_and_has_no_dropout(tiny_model, ragged):
    model = tiny_model("llama", attention_dropout=0.5).train()
    first = text_scores(model, ragged, autocast=nullcontext).perplexity
    assert model.training
    assert text_scores(model, ragged).perplexity == first
