"""Every objective by its name, against figures by hand."""

import math

import pytest
import torch

from minifinetuning.objectives import (
    OBJECTIVES,
    BatchRule,
    TokenProbabilities,
    needs_teacher,
    rule,
)

# Of the four tokens of conftest.py.
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
    "eaft": [1, 1, 1, 1],
    "talr": [1, 1, 1, 1],
}
WEIGHT = {
    "kl": [1.1] * 4,
    "dft": [0.1, 0.2, 0.3, 0.4],
    "asft": [0.2, 0.3, 0.4, 0.5],
    "mask_the_target": [10 / 9, 9 / 8, 8 / 7, 7 / 6],
    "stm": [0, 0, 1, 1],
    "eaft": [0, math.log(2) / math.log(20), 1.5 * math.log(2) / math.log(20), 1],
    # With a temperature of 1/2: squares, the first of them on the bound.
    "talr": [0.01, 0.04, 0.09, 0.16],
}


def of_a_batch(some_rule):
    """A batch rule as that of a batch with a mean loss of 1/2 in its one sequence."""
    if not isinstance(some_rule, BatchRule):
        return some_rule
    return some_rule.of_batch(torch.full((1, 3), 0.5), torch.ones(1, 3, dtype=torch.bool))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_mixing_and_weight_by_hand(four_tokens, objective, dtype):
    mixing, weight = of_a_batch(rule(objective))(four_tokens(dtype))
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
def test_tau_is_bound_where_the_objective_has_one(four_tokens, objective, tau, wanted):
    mixing, _ = rule(objective, tau)(four_tokens())
    torch.testing.assert_close(mixing, torch.tensor(wanted, dtype=torch.float64))


def test_the_paper_s_tau_is_the_default(four_tokens):
    assert torch.equal(rule("mft")(four_tokens())[0], rule("mft", 0.25)(four_tokens())[0])


def test_what_looks_at_the_student_alone_needs_no_teacher(four_tokens):
    alone = [name for name in OBJECTIVES if not needs_teacher(name)]
    assert alone == ["ft", "dft", "eaft", "talr"]
    both = four_tokens()
    student = TokenProbabilities(both.student_label, student_top_logits=both.student_top_logits)
    for name in alone:
        got, wanted = (of_a_batch(rule(name))(tokens) for tokens in (student, both))
        assert all(map(torch.equal, got, wanted))
    for name in filter(needs_teacher, OBJECTIVES):
        with pytest.raises(ValueError, match="needs a teacher"):
            rule(name)(student)


def test_an_unknown_objective_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'sft'.*ft, corrective, single_correction, mft, distil"):
        rule("sft")
