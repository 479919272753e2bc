"""What was gained and what was lost, as plain numbers: perplexity, S, DG, their ratio, intervals.

All of it comes from one table: for each validation sequence the sum of its negative log-likelihood
(nats) and its number of predicted tokens, under the reference and under the tuned model.
Definitions: section 3.1 of the paper ("Metrics").
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "Change",
    "Interval",
    "Pairs",
    "SequenceLosses",
    "changes",
    "degeneralization",
    "difference",
    "mean_changes",
    "perplexity",
    "ratio",
    "specialization",
]

Interval = tuple[float, float]
"""Lower and upper bound of a confidence interval, in the unit of what it bounds."""


@dataclass(frozen=True)
class SequenceLosses:
    """One model on one text: per sequence the summed negative log-likelihood and the token count.

    `negative_log_likelihood` is (n,) float64 in nats, `tokens` is (n,) of predicted tokens.
    """

    negative_log_likelihood: Tensor
    tokens: Tensor

    @property
    def perplexity(self) -> float:
        """exp(mean negative log-likelihood per predicted token)."""
        return perplexity(float(self.negative_log_likelihood.sum()), int(self.tokens.sum()))


@dataclass(frozen=True)
class Change:
    """S, DG (both in %) and DG/S of one tuned model, each with its confidence interval.

    DG and the ratio are None where there is no general text. A bound of the ratio is infinite
    where S is not clearly different from zero.
    """

    specialization: float
    specialization_interval: Interval
    degeneralization: float | None
    degeneralization_interval: Interval | None
    ratio: float | None
    ratio_interval: Interval | None

    @property
    def has_bounded_ratio(self) -> bool:
        """Whether S is clearly different from zero, so that DG/S is known at all."""
        return self.ratio_interval is not None and math.isfinite(self.ratio_interval[0])


Pairs = Sequence[tuple[SequenceLosses, SequenceLosses]]
"""(reference, tuned) losses of each run of one method on one text."""


def perplexity(negative_log_likelihood: float, tokens: int) -> float:
    """exp(negative_log_likelihood / tokens), of nats; infinite where it leaves float's range."""
    if tokens == 0:
        raise ValueError("perplexity of no tokens")
    mean = negative_log_likelihood / tokens
    return math.exp(mean) if mean < 700 else (math.nan if math.isnan(mean) else math.inf)


def specialization(reference_perplexity: float, tuned_perplexity: float) -> float:
    """S = 100 * (PPL_ref - PPL_tuned) / PPL_ref on specialized text, in %: higher is better."""
    return 100 * (reference_perplexity - tuned_perplexity) / reference_perplexity


def degeneralization(reference_perplexity: float, tuned_perplexity: float) -> float:
    """DG = 100 * (PPL_tuned - PPL_ref) / PPL_ref on general text, in %: lower is better."""
    return 100 * (tuned_perplexity - reference_perplexity) / reference_perplexity


def ratio(degeneralization: float, specialization: float) -> float:
    """DG / S: what a percent of specialization cost in general perplexity; nan where S = 0."""
    return degeneralization / specialization if specialization != 0 else math.nan


def changes(
    specialized: tuple[SequenceLosses, SequenceLosses],
    general: tuple[SequenceLosses, SequenceLosses] | None,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Change:
    """S, DG and DG/S of (reference, tuned) losses, with paired bootstrap intervals.

    A resample draws n of the n validation sequences with replacement and takes the *same* ones for
    the reference and for the tuned model, so that how hard a sequence is cancels; specialized and
    general text are drawn independently. The interval is the central `level` of the resamples.
    """
    pairs = None if general is None else [general]
    return mean_changes([specialized], pairs, level=level, resamples=resamples, seed=seed)


def mean_changes(
    specialized: Pairs,
    general: Pairs | None,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Change:
    """`changes` of several runs of one method on the same sequences: S and DG are their means.

    DG/S is that of the means. A resample draws runs as well, with replacement and the same ones for
    both texts, so that an interval also says how much one run differs from the next.
    """
    return _mean_change(specialized, general, _draws(specialized, general, resamples, seed), level)


def difference(
    theirs: tuple[Pairs, Pairs | None],
    ours: tuple[Pairs, Pairs | None],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Change:
    """What `theirs` gained, lost and paid more than `ours`: S and DG in percent points, DG/S.

    Either is the (specialized, general) runs of one method, as for `mean_changes`. Both are taken
    on the same resamples, of sequences and of runs, so that how hard a sequence is cancels between
    them too: the intervals are narrower than two of `mean_changes` side by side suggest. The n-th
    runs of both should share their seed. The ratio is unbounded where it is for either.

    Raises ValueError for other sequences, other numbers of runs, and general text on one side.
    """
    _require_comparable(theirs, ours)
    (s, dg), (other_s, other_dg) = draws = [
        _draws(*side, resamples, seed) for side in (theirs, ours)
    ]
    one, other = _mean_change(*theirs, draws[0], level), _mean_change(*ours, draws[1], level)
    dg_interval = ratio_interval = None
    if dg is not None and other_dg is not None:
        dg_interval = _interval(dg - other_dg, level)
        ratio_interval = -math.inf, math.inf
        if one.has_bounded_ratio and other.has_bounded_ratio:
            ratio_interval = _interval(dg / s - other_dg / other_s, level)
    return Change(
        specialization=one.specialization - other.specialization,
        specialization_interval=_interval(s - other_s, level),
        degeneralization=_less(one.degeneralization, other.degeneralization),
        degeneralization_interval=dg_interval,
        ratio=_less(one.ratio, other.ratio),
        ratio_interval=ratio_interval,
    )


def _mean_change(
    specialized: Pairs, general: Pairs | None, draws: tuple[Tensor, Tensor | None], level: float
) -> Change:
    """Means over the runs, with the intervals of their draws."""
    s_draws, dg_draws = draws
    s = _mean([specialization(one.perplexity, two.perplexity) for one, two in specialized])
    if general is None or dg_draws is None:
        return Change(s, _interval(s_draws, level), None, None, None, None)
    dg = _mean([degeneralization(one.perplexity, two.perplexity) for one, two in general])
    return Change(
        specialization=s,
        specialization_interval=_interval(s_draws, level),
        degeneralization=dg,
        degeneralization_interval=_interval(dg_draws, level),
        ratio=ratio(dg, s),
        ratio_interval=_ratio_interval(dg_draws, s_draws, level),
    )


def _less(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def _require_comparable(
    theirs: tuple[Pairs, Pairs | None], ours: tuple[Pairs, Pairs | None]
) -> None:
    for one, other in zip(theirs, ours, strict=True):
        if (one is None) != (other is None):
            raise ValueError("one method has general text and the other has none")
        if one is None or other is None:
            continue
        if len(one) != len(other):
            raise ValueError(f"{len(one)} runs cannot be paired with {len(other)}")
        if not torch.equal(one[0][0].tokens, other[0][0].tokens):
            raise ValueError("the losses of two methods are not of the same sequences")


def _draws(
    specialized: Pairs, general: Pairs | None, resamples: int, seed: int
) -> tuple[Tensor, Tensor | None]:
    """(resamples,) of S and of DG in %: the same resamples for as many runs on the same texts."""
    generator = torch.Generator().manual_seed(seed)
    runs = len(specialized)
    drawn_runs = torch.zeros(resamples, 1, dtype=torch.long)
    if runs > 1:
        drawn_runs = torch.randint(runs, (resamples, runs), generator=generator)
    s_draws = -_resampled_change(specialized, drawn_runs, generator)
    if general is None:
        return s_draws, None
    return s_draws, _resampled_change(general, drawn_runs, generator)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _resampled_change(
    pairs: Pairs,
    drawn_runs: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """(resamples,) of 100 * (PPL_tuned - PPL_ref) / PPL_ref over paired resamples, in %.

    `drawn_runs` (resamples, k) are the pairs whose mean a resample is.
    """
    tokens = pairs[0][0].tokens
    if any(not torch.equal(losses.tokens, tokens) for pair in pairs for losses in pair):
        raise ValueError("reference and tuned losses are not of the same sequences")
    count, resamples = len(tokens), len(drawn_runs)
    picks = torch.randint(count, (resamples, count), generator=generator)
    predicted = tokens.double()[picks].sum(1)
    by_run = torch.stack(
        [
            100 * torch.expm1(difference.double()[picks].sum(1) / predicted)
            for difference in (
                tuned.negative_log_likelihood - reference.negative_log_likelihood
                for reference, tuned in pairs
            )
        ]
    )
    return by_run.gather(0, drawn_runs.T).mean(0)


def _interval(draws: Tensor, level: float) -> Interval:
    tail = (1 - level) / 2
    low, high = torch.quantile(draws, torch.tensor([tail, 1 - tail], dtype=draws.dtype)).tolist()
    return low, high


def _ratio_interval(dg_draws: Tensor, s_draws: Tensor, level: float) -> Interval:
    """Percentiles of DG/S; unbounded where the interval of S holds zero."""
    low, high = _interval(s_draws, level)
    if low <= 0 <= high:
        return -math.inf, math.inf
    return _interval(dg_draws / s_draws, level)
