"""Elastic weight consolidation against loops in float64 and the Fisher summed over all labels."""

import copy

import pytest
import torch

from minifinetuning.ops import Head
from minifinetuning.training.ewc import (
    ElasticPenalty,
    fisher_diagonal,
    sampled_tokens,
    trained_parameters,
)


@pytest.fixture
def small(tiny_model):
    """So small a model that every label of every position can be tried."""
    sizes = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    return tiny_model("llama", **sizes).eval()


def exact_fisher(model, sequences):
    """The mean over positions of sum_y p(y) * (d log p(y) / d theta)^2, one label at a time."""
    model = copy.deepcopy(model).double()
    names, parameters = zip(*model.named_parameters(), strict=True)
    total = [torch.zeros_like(value) for value in parameters]
    count = 0
    for sequence in sequences:
        logits = model(torch.tensor(sequence["input_ids"])[None]).logits[0, :-1]
        for row in torch.log_softmax(logits, 1):
            count += 1
            for value in row:
                gradients = torch.autograd.grad(value, parameters, retain_graph=True)
                for sums, gradient in zip(total, gradients, strict=True):
                    sums += value.exp().detach() * gradient**2
    return {name: sums / count for name, sums in zip(names, total, strict=True)}


def flat(tensors):
    return torch.cat([value.double().flatten() for value in tensors.values()])


def test_fisher_is_that_of_all_labels(small, random_sequences):
    sequences = random_sequences(2, 6, seed=1, vocabulary=11)
    expected = flat(exact_fisher(small, sequences))
    repeated = sequences * 400
    got = flat(fisher_diagonal(small, repeated, tokens=10**9, seed=3))
    # 800 draws: each entry is within some percent, and so is their sum.
    assert got.sum() == pytest.approx(float(expected.sum()), rel=0.05)
    assert torch.corrcoef(torch.stack([got, expected]))[0, 1] > 0.99
    # A Fisher of the text's own labels is another one.
    text = flat(empirical_fisher(small, sequences))
    assert (got - expected).norm() < 0.2 * (text - expected).norm()


def empirical_fisher(model, sequences):
    parameters = dict(model.named_parameters())
    total = {name: torch.zeros_like(value) for name, value in parameters.items()}
    for sequence in sequences:
        ids = torch.tensor(sequence["input_ids"])
        losses = torch.nn.functional.cross_entropy(
            model(ids[None]).logits[0, :-1], ids[1:], reduction="none"
        )
        for loss in losses:
            gradients = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
            for name, gradient in zip(parameters, gradients, strict=True):
                total[name] += gradient**2 / (len(losses) * len(sequences))
    return total


def test_fisher_takes_whole_sequences_up_to_its_tokens(small, random_sequences):
    sequences = random_sequences(6, 6, vocabulary=11)
    some = fisher_diagonal(small, sequences, tokens=8, seed=1)
    first = fisher_diagonal(small, sequences[:2], tokens=10**9, seed=1)
    for name, value in first.items():
        torch.testing.assert_close(some[name], value, rtol=0, atol=0)


def test_fisher_leaves_the_model_as_it_was(small, random_sequences):
    small.train()
    before = copy.deepcopy(small.state_dict())
    fisher_diagonal(small, random_sequences(2, 6, vocabulary=11))
    assert small.training
    assert all(value.grad is None for value in small.parameters())
    assert all(torch.equal(before[name], value) for name, value in small.state_dict().items())


def test_labels_that_are_masked_have_no_part_in_the_fisher(small, random_sequences):
    (sequence,) = random_sequences(1, 6, vocabulary=11)
    short = {"input_ids": sequence["input_ids"][:4]}
    padded = {
        "input_ids": sequence["input_ids"],
        "attention_mask": [1, 1, 1, 1, 0, 0],
    }
    draws = [fisher_diagonal(small, [text] * 300, tokens=10**9) for text in (short, padded)]
    assert flat(draws[1]).sum() == pytest.approx(float(flat(draws[0]).sum()), rel=0.1)


def test_sampled_tokens_follow_the_softmax():
    torch.manual_seed(0)
    head = Head(torch.randn(7, 4), scale=0.5)
    hidden = torch.randn(1, 4)
    drawn = sampled_tokens(hidden.expand(20_000, 4), head, torch.Generator().manual_seed(1))
    expected = torch.softmax(head.logits(hidden)[0], 0)
    got = torch.bincount(drawn, minlength=7) / len(drawn)
    torch.testing.assert_close(got, expected, rtol=0, atol=0.015)


def test_penalty_and_its_gradient_are_those_of_a_plain_loop(small):
    generator = torch.Generator().manual_seed(5)
    parameters = trained_parameters(small)
    fisher = {
        name: torch.rand(value.shape, generator=generator) for name, value in parameters.items()
    }
    penalty = ElasticPenalty(parameters, fisher, weight=3.0)
    start = {name: value.detach().clone() for name, value in parameters.items()}
    expected = 0.0
    with torch.no_grad():
        for value in parameters.values():
            value += torch.randn(value.shape, generator=generator)
    own = {}
    for name, value in parameters.items():
        value.grad = own[name] = torch.randn(value.shape, generator=generator)
        moved = (value - start[name]).double().detach()
        expected += float((1.5 * fisher[name].double() * moved**2).sum())
        own[name] = own[name].double() + 2.0 * 3.0 * fisher[name].double() * moved
    got = penalty.add_gradients(scale=2.0)
    assert float(got) == pytest.approx(expected, rel=1e-5)
    for name, value in parameters.items():
        torch.testing.assert_close(value.grad.double(), own[name], rtol=1e-5, atol=1e-5)
