"""The rules against figures by hand and against what section 2 of the paper asks of p^C."""

import math

import pytest
import torch

from minifinetuning.objectives import (
    OBJECTIVES,
    TokenProbabilities,
    correct_distribution,
    needs_teacher,
    rule,
)

# Four tokens: wrong, hopelessly wrong, right, right and certain enough for the label to reach 1.
TEACHER_LABEL = [0.2, 0.0, 0.6, 0.9]
TEACHER_MAX = [0.5, 1.0, 0.6, 0.9]
# With tau = 1/4: alpha = (0.3 + 0.25) / 1.3 and (1 + 0.25) / 2; beta = 0.25 / 0.4, and 1.
ALPHA = [11 / 26, 5 / 8]
BETA = [5 / 8, 1.0]
MIXING = {
    "ft": [1, 1, 1, 1],
    "distillation": [0, 0, 0, 0],
    "corrective": [1, 1, 0, 0],
    "single_correction": [*ALPHA, 0, 0],
    "mft": [*ALPHA, *BETA],
    # With a weight of 0.1 of the KL.
    "kl": [1 / 1.1] * 4,
    "dft": [1, 1, 1, 1],
    "asft": [1 / 2, 2 / 3, 3 / 4, 4 / 5],
    "mask_the_target": [1 - 0.09 / 0.8, 41 / 45, 1 - 0.0875 / 0.4, 1 / 7],
    "stm": [1, 1, 1, 1],
}
WEIGHT = {
    "kl": [1.1] * 4,
    "dft": [0.1, 0.2, 0.3, 0.4],
    "asft": [0.2, 0.3, 0.4, 0.5],
    "mask_the_target": [10 / 9, 9 / 8, 8 / 7, 7 / 6],
    "stm": [0, 0, 1, 1],
}


def four_tokens(dtype=torch.float64):
    student = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=dtype)
    return TokenProbabilities(
        student, torch.tensor(TEACHER_LABEL, dtype=dtype), torch.tensor(TEACHER_MAX, dtype=dtype)
    )


def certain_token(dtype):
    one = torch.ones(1, dtype=dtype)
    return TokenProbabilities(one / 2, one, one)


def random_teachers(seed, dtype=torch.float64):
    """(probabilities (3, 40, 9), labels (3, 40)): flat and peaked, right at every other token."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 40, 9, generator=generator, dtype=torch.float64)
    logits *= torch.tensor([0.5, 2.0, 8.0]).view(3, 1, 1)
    labels = torch.randint(9, (3, 40), generator=generator)
    labels[:, ::2] = logits.argmax(-1)[:, ::2]
    return logits.softmax(-1).to(dtype), labels


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_mixing_and_weight_by_hand(objective, dtype):
    mixing, weight = rule(objective)(four_tokens(dtype))
    close = {"rtol": 8 * torch.finfo(dtype).eps, "atol": 0}
    torch.testing.assert_close(mixing, torch.tensor(MIXING[objective], dtype=dtype), **close)
    wanted = torch.tensor(WEIGHT.get(objective, [1, 1, 1, 1]), dtype=dtype)
    torch.testing.assert_close(weight, wanted, **close)


def test_every_objective_has_figures_by_hand():
    assert MIXING.keys() == OBJECTIVES.keys()


@pytest.mark.parametrize(
    ("objective", "tau", "wanted"),
    [
        ("mft", 0.0, [0.3 / 1.3, 0.5, 0.0, 0.0]),
        ("mft", 0.4, [0.7 / 1.3, 0.7, 1.0, 1.0]),
        ("mft", 1.0, [1.0, 1.0, 1.0, 1.0]),
        ("single_correction", 0.4, [0.7 / 1.3, 0.7, 0.0, 0.0]),
        ("single_correction", 1.0, [1.0, 1.0, 0.0, 0.0]),
        ("corrective", 0.4, [1.0, 1.0, 0.0, 0.0]),
    ],
)
def test_tau_is_bound_where_the_objective_has_one(objective, tau, wanted):
    mixing, _ = rule(objective, tau)(four_tokens())
    torch.testing.assert_close(mixing, torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tau_one_is_finetuning_exactly(dtype):
    teacher, labels = random_teachers(0, dtype)
    label = teacher.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    mixing, _ = rule("mft", 1.0)(TokenProbabilities(label, label, teacher.amax(-1)))
    assert torch.equal(mixing, torch.ones_like(mixing))


def test_a_tie_counts_as_right():
    label = torch.tensor([0.4, 0.4, 0.4])
    highest = torch.tensor([0.4, 0.4, 0.5])
    tokens = TokenProbabilities(label, label, highest)
    assert tokens.teacher_is_right.tolist() == [True, True, False]
    assert rule("corrective")(tokens)[0].tolist() == [0, 0, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tau", [0.0, 0.25, 1.0])
def test_a_certain_teacher_leaves_no_nan(tau, dtype):
    mixing, _ = rule("mft", tau)(certain_token(dtype))
    assert 0 <= mixing.item() <= 1
    teacher = torch.tensor([0.0, 1.0, 0.0], dtype=dtype)
    assert torch.equal(correct_distribution(teacher, torch.tensor(1), tau), teacher)


@pytest.mark.parametrize("tau", [0.0, 0.25, 1.0])
def test_a_probability_rounded_above_one_counts_as_certain(tau):
    above = torch.tensor([1 + torch.finfo(torch.float32).eps])
    mixing, _ = rule("mft", tau)(TokenProbabilities(above, above, above))
    assert 0 <= mixing.item() <= 1


def test_the_paper_s_tau_is_the_default():
    assert torch.equal(rule("mft")(four_tokens())[0], rule("mft", 0.25)(four_tokens())[0])


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


# As their authors write them: log p_S (N, V), p_T (N, V) and labels (N, 1) to losses (N,).
PUBLISHED = {
    "kl": lambda *a: label_loss(*a) + 0.3 * forward_kl(*a),
    "dft": lambda *a: (-label_loss(*a)).exp().detach() * label_loss(*a),
    "asft": lambda *a: (-label_loss(*a)).exp().detach() * label_loss(*a) + 0.3 * forward_kl(*a),
    "mask_the_target": lambda *a: label_loss(*a) + 0.3 * kl_without_label(*a),
    "stm": lambda *a: label_loss(*a) * (a[1].gather(1, a[2]).squeeze(1) ** -1 <= 2.5),
}


@pytest.mark.parametrize("objective", PUBLISHED)
@pytest.mark.parametrize("seed", range(3))
def test_a_rival_s_gradient_is_that_of_the_loss_that_its_authors_write(objective, seed):
    teacher, labels = (part.flatten(0, 1) for part in random_teachers(seed))
    labels = labels.unsqueeze(1)
    generator = torch.Generator().manual_seed(seed + 10)
    logits = torch.randn(teacher.shape, generator=generator, dtype=torch.float64).mul(2)
    logits.requires_grad_()
    loss = PUBLISHED[objective](torch.log_softmax(logits, 1), teacher, labels)
    (wanted,) = torch.autograd.grad(loss.sum(), logits)

    student = logits.detach().softmax(1)
    at_label = [p.gather(1, labels).squeeze(1) for p in (student, teacher)]
    mixing, weight = rule(objective, kl_weight=0.3)(TokenProbabilities(*at_label, teacher.amax(1)))
    one_hot = torch.zeros_like(student).scatter(1, labels, 1.0)
    target = (1 - mixing).unsqueeze(1) * teacher + mixing.unsqueeze(1) * one_hot
    torch.testing.assert_close(
        weight.unsqueeze(1) * (student - target), wanted, rtol=1e-9, atol=1e-8
    )


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


def test_without_a_kl_only_the_label_s_loss_is_left():
    for name, plain in (("kl", "ft"), ("mask_the_target", "ft"), ("asft", "dft")):
        got, wanted = (rule(each, kl_weight=0.0)(four_tokens()) for each in (name, plain))
        assert all(map(torch.equal, got, wanted))


def test_finetuning_alone_needs_no_teacher():
    assert [name for name in OBJECTIVES if not needs_teacher(name)] == ["ft", "dft"]
    student_alone = TokenProbabilities(torch.tensor([0.5]))
    assert rule("ft")(student_alone)[0].item() == 1
    for name in filter(needs_teacher, OBJECTIVES):
        with pytest.raises(ValueError, match="needs a teacher"):
            rule(name)(student_alone)


def test_an_unknown_objective_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'sft'.*ft, corrective, single_correction, mft, distil"):
        rule("sft")


@pytest.mark.parametrize("tau", [-0.01, 1.01, 25, math.inf, math.nan])
def test_tau_is_a_probability_mass(tau):
    with pytest.raises(ValueError, match="between 0 and 1"):
        rule("mft", tau)
    with pytest.raises(ValueError, match="between 0 and 1"):
        correct_distribution(torch.tensor([0.5, 0.5]), torch.tensor(0), tau)


@pytest.mark.parametrize("tau", [0.0, 0.1, 0.25, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_corrected_distribution_is_what_the_paper_asks_for(seed, tau):
    teacher, labels = random_teachers(seed)
    corrected = correct_distribution(teacher, labels, tau)
    assert corrected.shape == teacher.shape
    tokens = zip(
        teacher.flatten(0, 1).tolist(),
        labels.flatten().tolist(),
        corrected.flatten(0, 1).tolist(),
        strict=True,
    )
    for before, label, after in tokens:
        assert sum(after) == pytest.approx(1)
        assert min(after) >= 0
        favourite = before.index(max(before))
        if favourite == label:
            assert after[label] == pytest.approx(min(1, before[label] + tau))
        else:
            assert after[label] == pytest.approx(after[favourite] + tau)
            assert after[favourite] == max(p for i, p in enumerate(after) if i != label)
        others = [i for i in range(9) if i != label]
        shrinkage = sum(after[i] for i in others) / sum(before[i] for i in others)
        assert [after[i] for i in others] == pytest.approx([shrinkage * before[i] for i in others])


def test_one_distribution_alone_by_hand():
    corrected = correct_distribution(torch.tensor([0.5, 0.2, 0.3]), torch.tensor(1), 0.25)
    # alpha = 0.55 / 1.3; the others keep 0.75 / 1.3 of their probability.
    wanted = torch.tensor([0.375, 0.7, 0.225]) / 1.3
    torch.testing.assert_close(corrected, wanted)
