"""What was gained and what was lost, as plain numbers: perplexity, S, DG, their ratio, intervals.

All of it comes from one table: for each part of a document that lies in one validation sequence the
sum of its negative log-likelihood (nats) and its number of predicted tokens, under the reference
and under the tuned model. Definitions: section 3.1 of the paper ("Metrics"). Sequences of one
document are alike, so intervals resample documents.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

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
    "inflation",
    "mean_changes",
    "perplexity",
    "ratio",
    "specialization",
]

_PICKS = 1 << 22
"""Picks of documents that are held at a time."""

Interval = tuple[float, float]
"""Lower and upper bound of a confidence interval, in the unit of what it bounds."""


@dataclass(frozen=True)
class SequenceLosses:
    """One model on one text, by the parts of its documents that lie in one sequence each.

    `negative_log_likelihood` is (n,) float64 in nats, `tokens` is (n,) of predicted tokens, and
    `documents` (n,) the number of the document that a part belongs to: by tokens, where a sequence
    spans several. Without it every part is a document of its own.
    """

    negative_log_likelihood: Tensor
    tokens: Tensor
    documents: Tensor | None = None

    @property
    def document_count(self) -> int:
        """The documents of which at least one token was predicted."""
        return int(self._numbers()[self.tokens > 0].unique().numel())

    @property
    def resampled(self) -> Tensor:
        """(n,) the number of what a bootstrap draws together, from 0 on; -1 where it has no token.

        That is a document. A text of one document is drawn by its parts, the best that there is,
        although what stands in one place says something of the next.
        """
        units = torch.full_like(self.tokens, -1, dtype=torch.long)
        known = self.tokens > 0
        if self.document_count > 1:
            units[known] = self._numbers()[known].unique(return_inverse=True)[1]
        else:
            units[known] = torch.arange(int(known.sum()))
        return units

    def _numbers(self) -> Tensor:
        return torch.arange(len(self.tokens)) if self.documents is None else self.documents

    def is_of_the_same(self, other: "SequenceLosses") -> bool:
        """Whether both are of the same parts of the same documents."""
        return torch.equal(self.tokens, other.tokens) and torch.equal(
            self._numbers(), other._numbers()
        )

    @property
    def perplexity(self) -> float:
        """exp(mean negative log-likelihood per predicted token)."""
        return perplexity(float(self.negative_log_likelihood.sum()), int(self.tokens.sum()))


@dataclass(frozen=True)
class Change:
    """S, DG (both in %) and DG/S of one tuned model, each with its confidence interval.

    DG and the ratio are None where there is no general text; the ratio is nan where S is not above
    zero. A bound is infinite where nothing is known: of the ratio where S is not clearly above
    zero, of all where the text is one sequence.
    """

    specialization: float
    specialization_interval: Interval
    degeneralization: float | None
    degeneralization_interval: Interval | None
    ratio: float | None
    ratio_interval: Interval | None

    @property
    def has_bounded_ratio(self) -> bool:
        """Whether S is clearly above zero, so that DG/S is known at all."""
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
    """DG / S: what a percent of specialization cost; nan where nothing was gained (S <= 0)."""
    return degeneralization / specialization if specialization > 0 else math.nan


def changes(
    specialized: tuple[SequenceLosses, SequenceLosses],
    general: tuple[SequenceLosses, SequenceLosses] | None,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Change:
    """S, DG and DG/S of (reference, tuned) losses, with paired bootstrap intervals.

    A resample draws n of the n validation documents with replacement (of one document alone, of its
    sequences) and takes the *same* ones for the reference and for the tuned model, so that how hard
    a document is cancels; specialized and general text are drawn independently. The interval is the
    central `level` of the resamples, each as far from the middle as `inflation` says.
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
    draws = _draws(specialized, general, level, resamples, seed)
    return _mean_change(specialized, general, draws, level)


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
    on the same resamples, of documents and of runs, so that how hard a document is cancels between
    them too: the intervals are narrower than two of `mean_changes` side by side suggest. The n-th
    runs of both should share their seed. The ratio is unbounded where it is for either.

    Raises ValueError for other texts, other numbers of runs, and general text on one side.
    """
    _require_comparable(theirs, ours)
    (s, dg), (other_s, other_dg) = draws = [
        _draws(*side, level, resamples, seed) for side in (theirs, ours)
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
    s_interval = _interval(s_draws, level)
    s = _mean([specialization(one.perplexity, two.perplexity) for one, two in specialized])
    if general is None or dg_draws is None:
        return Change(s, s_interval, None, None, None, None)
    dg = _mean([degeneralization(one.perplexity, two.perplexity) for one, two in general])
    return Change(
        specialization=s,
        specialization_interval=s_interval,
        degeneralization=dg,
        degeneralization_interval=_interval(dg_draws, level),
        ratio=ratio(dg, s),
        # Unbounded where nothing may have been gained.
        ratio_interval=(-math.inf, math.inf)
        if s_interval[0] <= 0
        else _interval(dg_draws / s_draws, level),
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
        if not one[0][0].is_of_the_same(other[0][0]):
            raise ValueError("the losses of two methods are not of the same sequences")


def _draws(
    specialized: Pairs, general: Pairs | None, level: float, resamples: int, seed: int
) -> tuple[Tensor, Tensor | None]:
    """(resamples,) of S and of DG in %: the same resamples for as many runs on the same texts."""
    generator = torch.Generator().manual_seed(seed)
    runs = len(specialized)
    drawn_runs = torch.zeros(resamples, 1, dtype=torch.long)
    if runs > 1:
        drawn_runs = torch.randint(runs, (resamples, runs), generator=generator)
    s_draws = -_resampled_change(specialized, level, drawn_runs, generator)
    if general is None:
        return s_draws, None
    return s_draws, _resampled_change(general, level, drawn_runs, generator)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _resampled_change(
    pairs: Pairs,
    level: float,
    drawn_runs: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """(resamples,) of 100 * (PPL_tuned - PPL_ref) / PPL_ref over paired resamples, in %.

    `drawn_runs` (resamples, k) are the pairs whose mean a resample is. Of one unit nothing can be
    said: every resample is nan.
    """
    reference = pairs[0][0]
    if any(not losses.is_of_the_same(reference) for pair in pairs for losses in pair):
        raise ValueError("reference and tuned losses are not of the same sequences")
    units = reference.resampled
    count, resamples = int(units.max()) + 1, len(drawn_runs)
    if count < 2:
        return torch.full((resamples,), math.nan, dtype=torch.float64)

    def by_unit(values: Tensor) -> Tensor:
        sums = torch.zeros(count, dtype=torch.float64)
        return sums.index_add(0, units[units >= 0], values[units >= 0].double())

    tokens = by_unit(reference.tokens)
    grown = torch.stack(
        [
            by_unit(tuned.negative_log_likelihood - reference.negative_log_likelihood)
            for reference, tuned in pairs
        ]
    )
    middle = (grown.sum(1) / tokens.sum())[:, None]
    by_run = []
    # In pieces: all picks of 2,000 resamples of many documents would fill the memory.
    for piece in torch.arange(resamples).split(max(1, _PICKS // count)):
        picks = torch.randint(count, (len(piece), count), generator=generator)
        means = grown[:, picks].sum(2) / tokens[picks].sum(1)
        means = middle + inflation(count, level) * (means - middle)
        by_run.append(100 * torch.expm1(means))
    return torch.cat(by_run, 1).gather(0, drawn_runs.T).mean(0)


def inflation(count: int, level: float) -> float:
    """How much farther from the middle a resample of `count` units is taken to be than it came out.

        sqrt(n / (n - 1)) * t / z

    t and z are the quantiles of Student's t (n - 1 degrees of freedom) and of the normal
    distribution that leave `level` between them and their negatives. A bootstrap of few units is
    too narrow: it divides by n where n - 1 is due, knows no more of the spread than they tell, and
    never leaves their range. This brings a normal mean to its level. It is 1 for large n.
    """
    freedom = count - 1
    z = NormalDist().inv_cdf((1 + level) / 2)
    if freedom == 1:
        t = math.tan(math.pi * level / 2)
    elif freedom == 2:
        t = level * math.sqrt(2 / (1 - level**2))
    else:
        # Fisher's expansion of the quantile: within 1 % of the truth from 3 degrees of freedom on.
        terms = (
            z,
            (z**3 + z) / 4,
            (5 * z**5 + 16 * z**3 + 3 * z) / 96,
            (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        )
        t = sum(term / freedom**power for power, term in enumerate(terms))
    return math.sqrt(count / freedom) * t / z


def _interval(draws: Tensor, level: float) -> Interval:
    """The central `level` of the draws; unbounded where they are nan."""
    if draws.isnan().any():
        return -math.inf, math.inf
    tail = (1 - level) / 2
    low, high = torch.quantile(draws, torch.tensor([tail, 1 - tail], dtype=draws.dtype)).tolist()
    return low, high
