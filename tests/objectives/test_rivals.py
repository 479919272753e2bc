"""The rivals' rules against the losses that their authors write."""

import math

import pytest
import torch

from minifinetuning.objectives import (
    BatchRule,
    TokenProbabilities,
    median_sequence_loss,
    rule,
    token_adaptive_finetuning,
)


def label_loss(log_student, teacher, labels):
    return -log_student.gather(1, labels).squeeze(1)


def forward_kl(log_student, teacher, labels):
    return (teacher * (teacher.log() - log_student)).sum(1)


def kl_without_label(log_student, teacher, labels):
    """Both without the label, made to sum to one."""
    others = torch.ones_like(teacher).scatter(1, labels, 0.0).bool()
    size = teacher.shape[1] - 1
    teacher = teacher[others].view(-1, size)
    teacher = teacher / teacher.sum(1, keepdim=True)
    log_student = torch.log_softmax(log_student[others].view(-1, size), 1)
    return (teacher * (teacher.log() - log_student)).sum(1)


def entropy_adaptive_loss(log_student, teacher, labels):
    with torch.no_grad():
        top = log_student.exp().sort(1, descending=True).values[:, :20]
        top = top / top.sum(1, keepdim=True)
        gate = -(top * top.log()).sum(1) / math.log(20)
    return gate * label_loss(log_student, teacher, labels)


def token_adaptive_loss(log_student, teacher, labels):
    """Of a batch of three sequences of 40 tokens."""
    losses = label_loss(log_student, teacher, labels)
    with torch.no_grad():
        temperature = losses.view(3, 40).mean(1).median()
        weights = (-losses / temperature).exp()
        weights = torch.where(weights > 0.01, weights, 0.01)
    return weights * losses


# As their authors write them: log p_S (N, V), p_T (N, V) and labels (N, 1) to losses (N,).
PUBLISHED = {
    "kl": lambda *a: label_loss(*a) + 0.3 * forward_kl(*a),
    "dft": lambda *a: (-label_loss(*a)).exp().detach() * label_loss(*a),
    "asft": lambda *a: (-label_loss(*a)).exp().detach() * label_loss(*a) + 0.3 * forward_kl(*a),
    "mask_the_target": lambda *a: label_loss(*a) + 0.3 * kl_without_label(*a),
    "stm": lambda *a: label_loss(*a) * (a[1].gather(1, a[2]).squeeze(1) ** -1 <= 2.5),
    "eaft": entropy_adaptive_loss,
    "talr": token_adaptive_loss,
}


@pytest.mark.parametrize("objective", PUBLISHED)
@pytest.mark.parametrize("seed", range(3))
def test_a_rival_s_gradient_is_that_of_the_loss_that_its_authors_write(
    random_teachers, objective, seed
):
    teacher, labels = (part.flatten(0, 1) for part in random_teachers(seed, size=30))
    labels = labels.unsqueeze(1)
    generator = torch.Generator().manual_seed(seed + 10)
    logits = torch.randn(teacher.shape, generator=generator, dtype=torch.float64).mul(2)
    # Of five labels the student knows four: some of the others reach TALR's least weight.
    known = torch.full((120, 1), 6.0, dtype=torch.float64)
    known[::5] = 0
    logits.scatter_add_(1, labels, known).requires_grad_()
    loss = PUBLISHED[objective](torch.log_softmax(logits, 1), teacher, labels)
    (wanted,) = torch.autograd.grad(loss.sum(), logits)

    student = logits.detach().softmax(1)
    at_label = [p.gather(1, labels).squeeze(1) for p in (student, teacher)]
    some_rule = rule(objective, kl_weight=0.3)
    if isinstance(some_rule, BatchRule):
        losses = -at_label[0].log().view(3, 40)
        some_rule = some_rule.of_batch(losses, torch.ones_like(losses, dtype=torch.bool))
    mixing, weight = some_rule(
        TokenProbabilities(
            *at_label, teacher.amax(1), lambda count: logits.detach().topk(count).values
        )
    )
    one_hot = torch.zeros_like(student).scatter(1, labels, 1.0)
    target = (1 - mixing).unsqueeze(1) * teacher + mixing.unsqueeze(1) * one_hot
    torch.testing.assert_close(
        weight.unsqueeze(1) * (student - target), wanted, rtol=1e-9, atol=1e-8
    )


# With a KL.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("certain", ["student", "teacher", "both"])
def test_certainty_of_the_label_leaves_finetuning_of_a_masked_target(certain, dtype):
    one, half = torch.ones(1, dtype=dtype), torch.full((1,), 0.5, dtype=dtype)
    student = one if certain != "teacher" else half
    teacher = one if certain != "student" else half
    mixing, weight = rule("mask_the_target")(TokenProbabilities(student, teacher, teacher))
    assert (mixing.item(), weight.item()) == (1, 1)


@pytest.mark.parametrize("kl_weight", [-0.1, math.inf, math.nan])
def test_the_weight_of_the_kl_is_a_finite_number(kl_weight):
    with pytest.raises(ValueError, match="kl_weight must be 0 or above"):
        rule("kl", kl_weight=kl_weight)


def test_without_a_kl_only_the_label_s_loss_is_left(four_tokens):
    for name, plain in (("kl", "ft"), ("mask_the_target", "ft"), ("asft", "dft")):
        got, wanted = (rule(each, kl_weight=0.0)(four_tokens()) for each in (name, plain))
        assert all(map(torch.equal, got, wanted))


# Entropy.


def test_entropy_out_of_reach_is_an_error():
    with pytest.raises(ValueError, match="needs the student's logits"):
        rule("eaft")(TokenProbabilities(torch.tensor([0.5])))


# Temperature.


def test_a_temperature_is_of_a_batch():
    with pytest.raises(ValueError, match="needs its batch first"):
        rule("talr")(TokenProbabilities(torch.tensor([0.5])))


def weights_of(probabilities, temperature):
    tokens = TokenProbabilities(torch.as_tensor(probabilities))
    return token_adaptive_finetuning(tokens, temperature)[1]


def test_the_weights_solve_what_their_authors_minimise():
    """Of w on a simplex, sum(w * loss) + T * sum(w * log w) has one stationary point."""
    losses = torch.tensor([0.1, 0.5, 1.2, 2.0], dtype=torch.float64)
    weights = weights_of((-losses).exp(), 0.7)
    weights = (weights / weights.sum()).requires_grad_()
    objective = (weights * losses).sum() + 0.7 * (weights * weights.log()).sum()
    (slopes,) = torch.autograd.grad(objective, weights)
    torch.testing.assert_close(slopes, slopes[:1].expand(4))


@pytest.mark.parametrize("temperature", [1e-38, 0.5, 1e6])
def test_weights_stay_between_their_bound_and_one(temperature):
    eps = torch.finfo(torch.float32).eps
    weights = weights_of([0.0, 1e-30, 0.3, 1.0, 1 + eps], torch.tensor(temperature))
    assert weights.amin() >= 0.01
    assert weights[3:].tolist() == [1, 1]
    assert weights.sort().values.equal(weights)


@pytest.mark.parametrize(
    ("sequences", "wanted"),
    [
        ([[1.0, 3.0]], 2.0),
        ([[1.0, 3.0], [9.0], [4.0, 4.0, 4.0]], 4.0),
        # Of an even number: between the two in the middle.
        ([[1.0], [2.0], [5.0], [100.0]], 3.5),
        # One without a label is no sequence of loss zero.
        ([[2.0], [], [4.0, 8.0], [3.0]], 3.0),
        ([[], []], 1.0),
    ],
)
def test_the_temperature_is_the_median_of_the_sequences_means(sequences, wanted):
    losses, kept = torch.full((len(sequences), 3), 77.0), torch.zeros(len(sequences), 3).bool()
    for row, sequence in enumerate(sequences):
        losses[row, : len(sequence)] = torch.tensor(sequence)
        kept[row, : len(sequence)] = True
    assert median_sequence_loss(losses, kept).item() == wanted


def test_a_batch_without_loss_leaves_a_temperature_above_zero():
    certain = median_sequence_loss(torch.zeros(2, 3), torch.ones(2, 3).bool())
    assert certain > 0
    assert weights_of([1.0, 0.9], certain).tolist() == [1, pytest.approx(0.01)]
