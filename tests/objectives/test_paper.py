"""The paper's rules against what section 2 asks of p^C, and where their quotients have no value."""

import math

import pytest
import torch

from minifinetuning.objectives import TokenProbabilities, correct_distribution, rule


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tau_one_is_finetuning_exactly(random_teachers, dtype):
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
    one = torch.ones(1, dtype=dtype)
    mixing, _ = rule("mft", tau)(TokenProbabilities(one / 2, one, one))
    assert 0 <= mixing.item() <= 1
    teacher = torch.tensor([0.0, 1.0, 0.0], dtype=dtype)
    assert torch.equal(correct_distribution(teacher, torch.tensor(1), tau), teacher)


@pytest.mark.parametrize("tau", [0.0, 0.25, 1.0])
def test_a_probability_rounded_above_one_counts_as_certain(tau):
    above = torch.tensor([1 + torch.finfo(torch.float32).eps])
    mixing, _ = rule("mft", tau)(TokenProbabilities(above, above, above))
    assert 0 <= mixing.item() <= 1


@pytest.mark.parametrize("tau", [-0.01, 1.01, 25, math.inf, math.nan])
def test_tau_is_a_probability_mass(tau):
    with pytest.raises(ValueError, match="between 0 and 1"):
        rule("mft", tau)
    with pytest.raises(ValueError, match="between 0 and 1"):
        correct_distribution(torch.tensor([0.5, 0.5]), torch.tensor(0), tau)


@pytest.mark.parametrize("tau", [0.0, 0.1, 0.25, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_corrected_distribution_is_what_the_paper_asks_for(random_teachers, seed, tau):
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
