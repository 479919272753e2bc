"""Perplexity, S, DG, their ratio and its intervals, against figures by hand and a known truth."""

import math
from dataclasses import astuple, replace

import pytest
import torch

from minifinetuning.metrics import (
    SequenceLosses,
    changes,
    degeneralization,
    difference,
    inflation,
    mean_changes,
    perplexity,
    ratio,
    specialization,
)


def losses(negative_log_likelihood, tokens):
    return SequenceLosses(
        torch.tensor(negative_log_likelihood, dtype=torch.float64), torch.tensor(tokens)
    )


def two_sequences(changes_per_token, tokens=(10, 30)):
    """(reference, tuned) of two sequences whose loss changed by so many nats per token."""
    reference = [4.0 * tokens[0], 2.0 * tokens[1]]
    pairs = zip(reference, changes_per_token, tokens, strict=True)
    tuned = [total + change * count for total, change, count in pairs]
    return losses(reference, list(tokens)), losses(tuned, list(tokens))


def many_sequences(changes_per_token, copies=20):
    """`two_sequences` so many times."""
    return tuple(
        SequenceLosses(side.negative_log_likelihood.repeat(copies), side.tokens.repeat(copies))
        for side in two_sequences(changes_per_token)
    )


def simulated(generator, change, noise=0.05, count=60):
    """Sequences of unequal length and very unequal hardness, `change` nats a token on average."""
    tokens = torch.randint(50, 101, (count,), generator=generator)

    def normal():
        return torch.randn(count, generator=generator, dtype=torch.float64)

    reference = tokens * (3 + normal())
    tuned = reference + tokens * (change + noise * normal())
    return SequenceLosses(reference, tokens), SequenceLosses(tuned, tokens)


def test_perplexity_by_hand():
    assert perplexity(3 * math.log(8), 3) == pytest.approx(8)
    assert perplexity(0.0, 5) == 1


def test_perplexity_weighs_sequences_by_their_tokens():
    # One token of probability 1/4 and three of probability 1/2: the mean is 5/4 bits.
    mixed = losses([math.log(4), 3 * math.log(2)], [1, 3])
    assert mixed.perplexity == pytest.approx(2**1.25)


def test_perplexity_beyond_a_float_is_infinite_and_of_nan_is_nan():
    assert perplexity(1e9, 10) == math.inf
    assert math.isnan(perplexity(math.nan, 10))


def test_perplexity_of_no_tokens_is_an_error():
    with pytest.raises(ValueError, match="no tokens"):
        perplexity(0.0, 0)


def test_changes_of_perplexity_by_hand():
    assert specialization(20.0, 18.0) == pytest.approx(10)
    assert specialization(20.0, 22.0) == pytest.approx(-10)
    assert degeneralization(20.0, 21.0) == pytest.approx(5)
    assert degeneralization(20.0, 19.0) == pytest.approx(-5)


def test_ratio_by_hand():
    assert ratio(0.3, 8.5) == pytest.approx(0.3 / 8.5)
    assert ratio(-1.0, 4.0) == -0.25
    assert math.isnan(ratio(1.0, 0.0))


def test_point_estimates_are_of_all_sequences_together():
    # -0.1 nats on 10 tokens and -0.3 on 30: -0.25 a token. 0.04 and 0.08: 0.07 a token.
    change = changes(two_sequences((-0.1, -0.3)), two_sequences((0.04, 0.08)))
    assert change.specialization == pytest.approx(100 * (1 - math.exp(-0.25)))
    assert change.degeneralization == pytest.approx(100 * (math.exp(0.07) - 1))
    assert change.ratio == pytest.approx(change.degeneralization / change.specialization)


def inflated(middle, value, count):
    """As far from the middle as Student's t asks, from a table: 12.706 of one, 4.303 of two."""
    t = {2: 12.706, 3: 4.303}[count]
    return middle + math.sqrt(count / (count - 1)) * t / 1.95996 * (value - middle)


def test_the_interval_of_two_sequences_by_hand():
    # A resample is the first twice, both, or the second twice, in odds of 1 : 2 : 1.
    change = changes(two_sequences((-0.1, -0.3)), two_sequences((0.04, 0.08)))
    ends = [100 * (1 - math.exp(inflated(-0.25, shift, 2))) for shift in (-0.1, -0.3)]
    assert change.specialization_interval == pytest.approx(ends, rel=1e-4)
    ends = [100 * math.expm1(inflated(0.07, shift, 2)) for shift in (0.04, 0.08)]
    assert change.degeneralization_interval == pytest.approx(ends, rel=1e-4)


def test_of_one_sequence_nothing_is_known():
    pair = losses([30.0], [10]), losses([29.0], [10])
    change = changes(pair, two_sequences((0.04, 0.08)))
    assert change.specialization == pytest.approx(100 * (1 - math.exp(-0.1)))
    assert change.specialization_interval == change.ratio_interval == (-math.inf, math.inf)
    found = difference(([pair], None), ([pair], None))
    assert found.specialization_interval == (-math.inf, math.inf)


def test_a_narrow_level_is_the_middle_of_the_resamples():
    # The central 10 % lies within the half of the resamples that hold both sequences.
    change = changes(two_sequences((-0.1, -0.3)), None, level=0.1)
    assert change.specialization_interval == pytest.approx([change.specialization] * 2)


def test_specialized_and_general_text_are_drawn_independently():
    # With draws in common the ratio would be -1 in every resample.
    pair = many_sequences((-0.1, -0.3))
    low, high = changes(pair, pair).ratio_interval
    assert low < -1.1
    assert -0.9 < high < 0


def test_without_general_text_there_is_no_ratio():
    change = changes(two_sequences((-0.1, -0.3)), None)
    assert astuple(change)[2:] == (None, None, None, None)


def test_identical_models_changed_by_exactly_nothing():
    reference, _ = simulated(torch.Generator().manual_seed(0), 0.0)
    change = changes((reference, reference), (reference, reference))
    assert change.specialization == change.degeneralization == 0
    assert change.specialization_interval == change.degeneralization_interval == (0, 0)
    assert math.isnan(change.ratio)
    assert change.ratio_interval == (-math.inf, math.inf)


@pytest.mark.parametrize("specialized", [(-0.1, 0.1), (0.0, -0.1), (0.0, 0.1)])
def test_the_ratio_is_unbounded_where_specialization_may_be_zero(specialized):
    change = changes(two_sequences(specialized), two_sequences((0.04, 0.08)))
    assert change.ratio_interval == (-math.inf, math.inf)
    assert math.isfinite(change.ratio) == (change.specialization > 0)


def test_a_model_that_got_worse_has_no_ratio():
    change = changes(many_sequences((0.1, 0.2)), many_sequences((-0.04, -0.08)))
    assert change.specialization_interval[1] < 0
    assert math.isnan(change.ratio)
    assert change.ratio_interval == (-math.inf, math.inf)
    assert math.isnan(ratio(-10.0, -300.0))


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    generator = torch.Generator().manual_seed(1)
    s, dg = 100 * (1 - math.exp(-0.1)), 100 * (math.exp(0.03) - 1)
    held = {"s": 0, "dg": 0, "ratio": 0}
    for seed in range(200):
        specialized, general = simulated(generator, -0.1), simulated(generator, 0.03)
        change = changes(specialized, general, resamples=400, seed=seed)
        for key, true, (low, high) in (
            ("s", s, change.specialization_interval),
            ("dg", dg, change.degeneralization_interval),
            ("ratio", dg / s, change.ratio_interval),
        ):
            held[key] += low <= true <= high
    assert all(0.88 * 200 <= count <= 0.99 * 200 for count in held.values()), held


def of_documents(generator, sequences, documents=24, change=-0.1, alike=0.05, noise=0.02):
    """(reference, tuned) of documents of so many sequences each, all parts of which are alike."""
    count = documents * sequences
    tokens = torch.randint(200, 301, (count,), generator=generator)
    numbers = torch.arange(documents).repeat_interleave(sequences)

    def normal(size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    reference = tokens * (3 + normal(documents)[numbers] + 0.1 * normal(count))
    moved = change + alike * normal(documents)[numbers] + noise * normal(count)
    sides = reference, reference + tokens * moved
    return tuple(SequenceLosses(side, tokens, numbers) for side in sides)


@pytest.mark.parametrize("sequences", [1, 2, 4, 16])
@pytest.mark.parametrize("documents", [2, 3, 5, 24, 60])
def test_intervals_hold_the_truth_whatever_a_documents_length(sequences, documents):
    generator = torch.Generator().manual_seed(sequences)
    true, trials, held = 100 * (1 - math.exp(-0.1)), 300, 0
    for seed in range(trials):
        pair = of_documents(generator, sequences, documents)
        low, high = changes(pair, None, resamples=400, seed=seed).specialization_interval
        held += low <= true <= high
    assert 0.90 * trials <= held <= 0.99 * trials, held


def test_a_sequence_belongs_to_its_documents_by_tokens():
    # Two sequences; document 0 fills the first and a part of the second, document 1 the rest.
    documents = torch.tensor([0, 0, 1])
    reference = replace(losses([30.0, 10.0, 60.0], [10, 5, 20]), documents=documents)
    tuned = replace(losses([29.0, 9.0, 56.0], [10, 5, 20]), documents=documents)
    ends = [100 * (1 - math.exp(inflated(-6 / 35, -shift, 2))) for shift in (2 / 15, 4 / 20)]
    found = changes((reference, tuned), None).specialization_interval
    assert found == pytest.approx(ends, rel=1e-4)
    assert reference.document_count == 2


def test_one_document_is_drawn_by_its_sequences():
    documents = torch.zeros(2, dtype=torch.long)
    pair = tuple(replace(side, documents=documents) for side in two_sequences((-0.1, -0.3)))
    apart = changes(two_sequences((-0.1, -0.3)), None).specialization_interval
    assert pair[0].document_count == 1
    assert changes(pair, None).specialization_interval == apart


def test_parts_without_a_token_are_drawn_by_nobody():
    pair = two_sequences((-0.1, -0.3))
    longer = tuple(
        losses([*side.negative_log_likelihood.tolist(), 0.0], [*side.tokens.tolist(), 0])
        for side in pair
    )
    assert changes(longer, None) == changes(pair, None)


@pytest.mark.parametrize(
    ("count", "t"),
    [(2, 12.706), (3, 4.303), (4, 3.182), (5, 2.776), (12, 2.201), (24, 2.069), (200, 1.972)],
)
def test_few_units_are_taken_to_differ_more_than_they_do(count, t):
    # Quantiles of Student's t with count - 1 degrees of freedom, from a table.
    expected = math.sqrt(count / (count - 1)) * t / 1.95996
    assert inflation(count, 0.95) == pytest.approx(expected, rel=0.01)
    assert inflation(10**6, 0.95) == pytest.approx(1, rel=1e-4)


def test_the_same_sequences_of_other_documents_are_refused():
    pair = two_sequences((-0.1, -0.3))
    with pytest.raises(ValueError, match="not of the same sequences"):
        changes((pair[0], replace(pair[1], documents=torch.tensor([0, 0]))), None)


def test_many_documents_are_drawn_in_pieces(monkeypatch):
    runs = runs_of([0.1, 0.12]), runs_of([-0.02, -0.01])
    whole = mean_changes(*runs)
    monkeypatch.setattr("minifinetuning.metrics._PICKS", 1000)
    assert mean_changes(*runs) == whole


def test_a_seed_fixes_the_interval_and_another_moves_it():
    generator = torch.Generator().manual_seed(2)
    specialized, general = simulated(generator, -0.1), simulated(generator, 0.03)
    torch.manual_seed(3)
    once = changes(specialized, general, seed=5)
    torch.manual_seed(4)
    assert changes(specialized, general, seed=5) == once
    other = changes(specialized, general, seed=6)
    assert other.specialization == once.specialization
    assert other.specialization_interval != once.specialization_interval
    assert other.ratio_interval == pytest.approx(once.ratio_interval, rel=0.1)


@pytest.mark.parametrize("tokens", [[10, 31], [30, 10], [10], [10, 30, 1]])
def test_losses_of_different_sequences_are_refused(tokens):
    pair = two_sequences((-0.1, -0.3))
    other = losses([1.0] * len(tokens), tokens)
    for specialized, general in (((pair[0], other), None), (pair, (pair[0], other))):
        with pytest.raises(ValueError, match="not of the same sequences"):
            changes(specialized, general)


def runs_of(shifts, count=60, seed=3):
    """(reference, tuned) losses of runs that lower each token's loss by a shift, with noise."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(50, 100, (count,), generator=generator)
    reference = 3.0 * tokens + 10 * torch.randn(count, generator=generator, dtype=torch.float64)
    runs = []
    for shift in shifts:
        noise = torch.randn(count, generator=generator, dtype=torch.float64)
        tuned = reference - shift * tokens + noise
        runs.append((SequenceLosses(reference, tokens), SequenceLosses(tuned, tokens)))
    return runs


def test_several_runs_are_their_mean():
    specialized, general = runs_of([0.10, 0.14, 0.12]), runs_of([-0.01, -0.03, -0.02], seed=4)
    change = mean_changes(specialized, general)
    singles = [changes(*pair) for pair in zip(specialized, general, strict=True)]
    expected = sum(single.specialization for single in singles) / 3
    assert change.specialization == pytest.approx(expected)
    expected = sum(single.degeneralization for single in singles) / 3
    assert change.degeneralization == pytest.approx(expected)
    assert change.ratio == pytest.approx(change.degeneralization / change.specialization)
    assert (
        change.specialization_interval[0]
        < change.specialization
        < (change.specialization_interval[1])
    )


def test_one_run_is_a_mean_of_one():
    specialized, general = runs_of([0.1]), runs_of([-0.02], seed=4)
    assert mean_changes(specialized, general) == changes(specialized[0], general[0])


def test_an_interval_over_runs_says_how_much_they_differ():
    def width(shifts):
        low, high = mean_changes(runs_of(shifts), None).specialization_interval
        return high - low

    alike, apart = width([0.12, 0.12, 0.12]), width([0.02, 0.12, 0.22])
    assert apart > 5 * alike
    # The mean of k runs drawn with replacement spreads by their deviation over the root of k.
    spread = [100 * (1 - math.exp(-shift)) for shift in (0.02, 0.12, 0.22)]
    mean = sum(spread) / 3
    deviation = math.sqrt(sum((value - mean) ** 2 for value in spread) / 3)
    assert apart == pytest.approx(2 * 1.96 * deviation / math.sqrt(3), rel=0.25)


def test_runs_on_other_sequences_are_refused():
    (one,), (other,) = runs_of([0.1]), runs_of([0.1], count=61)
    with pytest.raises(ValueError, match="not of the same sequences"):
        mean_changes([one, other], None)


def paired_by_hand(theirs, ours, generator, resamples=2000):
    """S, DG and DG/S of one run less another's over resamples, one sequence after the other."""
    draws = {"s": [], "dg": []}
    for kind, sign, one, other in (
        ("s", -1, theirs[0][0], ours[0][0]),
        ("dg", 1, theirs[1][0], ours[1][0]),
    ):
        count = len(one[0].tokens)
        for picks in torch.randint(count, (resamples, count), generator=generator).tolist():
            changed = []
            for reference, tuned in (one, other):
                drawn, whole = (
                    sum(
                        float(tuned.negative_log_likelihood[i])
                        - float(reference.negative_log_likelihood[i])
                        for i in those
                    )
                    / sum(int(tuned.tokens[i]) for i in those)
                    for those in (picks, range(count))
                )
                moved = whole + inflation(count, 0.95) * (drawn - whole)
                changed.append(sign * 100 * (math.exp(moved) - 1))
            draws[kind].append(changed)
    pairs = list(zip(draws["s"], draws["dg"], strict=True))
    return (
        [s[0] - s[1] for s, _ in pairs],
        [dg[0] - dg[1] for _, dg in pairs],
        [dg[0] / s[0] - dg[1] / s[1] for s, dg in pairs],
    )


def test_a_difference_is_taken_on_the_same_resamples():
    theirs = runs_of([0.14], count=12), runs_of([-0.03], count=12, seed=4)
    ours = runs_of([0.10], count=12), runs_of([-0.01], count=12, seed=4)
    found = difference(theirs, ours, resamples=300, seed=5)
    one, other = (changes(*(side[0] for side in sides)) for sides in (theirs, ours))
    assert found.specialization == pytest.approx(one.specialization - other.specialization)
    assert found.degeneralization == pytest.approx(one.degeneralization - other.degeneralization)
    assert found.ratio == pytest.approx(one.ratio - other.ratio)
    draws = paired_by_hand(theirs, ours, torch.Generator().manual_seed(5), resamples=300)
    for interval, by_hand in zip(
        (found.specialization_interval, found.degeneralization_interval, found.ratio_interval),
        draws,
        strict=True,
    ):
        bounds = torch.tensor(by_hand, dtype=torch.float64).quantile(
            torch.tensor([0.025, 0.975], dtype=torch.float64)
        )
        assert interval == pytest.approx(bounds.tolist(), rel=1e-9)


def test_what_makes_a_sequence_hard_cancels_between_two_methods():
    # Both gain much on the same sequences and little on the others, one a tenth more.
    tokens = [100] * 40
    reference = losses([300.0] * 40, tokens)
    hard = [5.0 if index % 2 else 0.5 for index in range(40)]
    runs = [
        [(reference, losses([300.0 - share * shift for shift in hard], tokens))]
        for share in (1.1, 1.0)
    ]
    found = difference((runs[0], None), (runs[1], None))
    low, high = found.specialization_interval
    alone = changes(runs[0][0], None).specialization_interval
    assert 0 < low < high
    assert high - low < (alone[1] - alone[0]) / 5
    assert (found.degeneralization, found.ratio, found.ratio_interval) == (None, None, None)


def test_a_method_differs_from_itself_by_nothing():
    own = runs_of([0.10, 0.12]), runs_of([-0.01, -0.03], seed=4)
    found = difference(own, own)
    assert astuple(found) == (0.0, (0.0, 0.0), 0.0, (0.0, 0.0), 0.0, (0.0, 0.0))


def test_the_difference_of_a_ratio_is_unbounded_where_either_is():
    sure = [many_sequences((-0.1, -0.3))], [many_sequences((0.04, 0.08))]
    unsure = [many_sequences((-0.1, 0.033))], [many_sequences((0.04, 0.08))]
    for sides in ((sure, unsure), (unsure, sure)):
        assert difference(*sides).ratio_interval == (-math.inf, math.inf)
    assert math.isfinite(difference(sure, sure).ratio_interval[0])


@pytest.mark.parametrize(
    ("ours", "reason"),
    [
        ((runs_of([0.1], count=61), runs_of([-0.02])), "not of the same sequences"),
        ((runs_of([0.1, 0.2]), runs_of([-0.02, -0.03])), "1 runs cannot be paired with 2"),
        ((runs_of([0.1]), None), "one method has general text and the other has none"),
    ],
)
def test_methods_that_cannot_be_paired_are_refused(ours, reason):
    with pytest.raises(ValueError, match=reason):
        difference((runs_of([0.1]), runs_of([-0.02])), ours)
