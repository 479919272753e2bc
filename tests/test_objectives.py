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
    wanted = torch.tensor(MIXING[objective], dtype=dtype)
    torch.testing.assert_close(mixing, wanted, rtol=4 * torch.finfo(dtype).eps, atol=0)
    assert torch.equal(weight, torch.ones(4, dtype=dtype))


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


def test_finetuning_alone_needs_no_teacher():
    assert [name for name in OBJECTIVES if not needs_teacher(name)] == ["ft"]
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
