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
    "SequenceLosses",
    "changes",
    "degeneralization",
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
    specialized: Sequence[tuple[SequenceLosses, SequenceLosses]],
    general: Sequence[tuple[SequenceLosses, SequenceLosses]] | None,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Change:
    """`changes` of several runs of one method on the same sequences: S and DG are their means.

    DG/S is that of the means. A resample draws runs as well, with replacement and the same ones for
    both texts, so that an interval also says how much one run differs from the next.
    """
    generator = torch.Generator().manual_seed(seed)
    runs = len(specialized)
    drawn_runs = torch.zeros(resamples, 1, dtype=torch.long)
    if runs > 1:
        drawn_runs = torch.randint(runs, (resamples, runs), generator=generator)
    s_draws = -_resampled_change(specialized, drawn_runs, generator)
    s = _mean([specialization(one.perplexity, two.perplexity) for one, two in specialized])
    if general is None:
        return Change(s, _interval(s_draws, level), None, None, None, None)
    dg_draws = _resampled_change(general, drawn_runs, generator)
    dg = _mean([degeneralization(one.perplexity, two.perplexity) for one, two in general])
    return Change(
        specialization=s,
        specialization_interval=_interval(s_draws, level),
        degeneralization=dg,
        degeneralization_interval=_interval(dg_draws, level),
        ratio=ratio(dg, s),
        ratio_interval=_ratio_interval(dg_draws, s_draws, level),
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _resampled_change(
    pairs: Sequence[tuple[SequenceLosses, SequenceLosses]],
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
