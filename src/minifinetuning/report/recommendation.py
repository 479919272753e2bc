"""Which method to take within a budget of forgetting: the ranking, and the advice in a sentence."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from minifinetuning.errors import InputError
from minifinetuning.report.sentences import Metrics, about_unprepared, learning_rate

__all__ = [
    "Choice",
    "Evaluation",
    "best_within",
    "contenders",
    "evaluations",
    "has_general_text",
    "is_blend",
    "place_of",
    "ranked",
    "recommendation",
]

Evaluation = Mapping[str, Any]
"""One entry of `history`, or a whole Metrics, which describes the step kept in the same words."""

_GAIN, _LOSS = "specialization", "degeneralization"


class Choice(NamedTuple):
    """A result by its name, and the evaluation at which one would stop it."""

    name: str
    metrics: Metrics
    evaluation: Evaluation


def recommendation(results: Mapping[str, Metrics], budget: float) -> str:
    """The result and step with the largest S among all evaluations with DG <= `budget` (%).

    The best of another method, the runner-up, is named with its S. Which of two is better is judged
    as everywhere, by their difference on the same resamples: `lead` of the winner, which
    `lab.rows.pooled_rows` adds. Where that holds zero the sentence says "not clearly better than",
    and where it is not known, that it is not. Without general text the budget cannot be applied: S
    of the steps kept decides, and the sentence says so.
    Where DG is negative a sentence more says so. Raises InputError where there is no result.
    """
    return " ".join(filter(None, (_advice(results, budget), about_unprepared(results))))


def evaluations(metrics: Metrics, *quantities: str) -> list[Evaluation]:
    """The entries of `history`, in order, in which all `quantities` are finite numbers.

    Where there is none, the step kept stands alone; the list is empty where that lacks one as well.
    """
    entries = [entry for entry in metrics["history"] if _has(entry, quantities)]
    return entries or [entry for entry in [metrics] if _has(entry, quantities)]


def best_within(metrics: Metrics, budget: float) -> Evaluation | None:
    """The evaluation of the largest S with DG <= `budget` (%), the earliest of equals.

    None where no evaluation within the budget gained anything (S > 0), and without general text.
    """
    gains = [
        entry
        for entry in evaluations(metrics, _GAIN, _LOSS)
        if entry[_LOSS] <= budget and entry[_GAIN] > 0
    ]
    return max(gains, key=lambda entry: float(entry[_GAIN]), default=None)


def place_of(evaluation: Evaluation) -> str:
    """Where a run was evaluated: `step 40`, or `c = 0.6` between two models that are blended."""
    if "coefficient" in evaluation:
        return f"c = {evaluation['coefficient']:g}"
    return f"step {evaluation['step']}"


def is_blend(metrics: Metrics) -> bool:
    """Whether the evaluations lie between two models, all at the same step."""
    return any("coefficient" in entry for entry in metrics["history"])


def has_general_text(results: Mapping[str, Metrics]) -> bool:
    """Whether DG of any result is known."""
    return any(metrics[_LOSS] is not None for metrics in results.values())


def ranked(results: Mapping[str, Metrics], budget: float) -> dict[str, Metrics]:
    """The results by their best S within the budget (%), largest first, then by S as kept.

    Those that gained nothing within the budget come last; without general text S alone counts.
    Raises InputError where there is no result.
    """
    if not results:
        raise InputError("there is no result to compare: name at least one metrics.json")

    def gains(item: tuple[str, Metrics]) -> tuple[float, float]:
        best = best_within(item[1], budget)
        return best[_GAIN] if best else -math.inf, item[1][_GAIN]

    return dict(sorted(results.items(), key=gains, reverse=True))


def contenders(
    results: Mapping[str, Metrics], budget: float
) -> tuple[Choice | None, Choice | None]:
    """The best choice, and the best of another method; of one method its next learning rate.

    A method that is only blended at the end is no other way to train.
    """
    if not results:
        return None, None
    found = _choices(results, budget)
    several_methods = _tries_several_methods(results)
    rivals = [
        choice
        for choice in found[1:]
        if not several_methods or _training(choice.metrics) != _training(found[0].metrics)
    ]
    return (found[0] if found else None), (rivals[0] if rivals else None)


def _has(entry: Evaluation, quantities: tuple[str, ...]) -> bool:
    values = [entry.get(quantity) for quantity in quantities]
    return all(value is not None and math.isfinite(value) for value in values)


def _choices(results: Mapping[str, Metrics], budget: float) -> list[Choice]:
    """Each result that gained something, at its largest S with DG <= `budget` (%); best first.

    Without general text the budget cannot be applied: S of the steps kept decides.
    """
    ordered = ranked(results, budget).items()
    if not has_general_text(results):
        return [Choice(*item, item[1]) for item in ordered if item[1][_GAIN] > 0]
    bests = [(*item, best_within(item[1], budget)) for item in ordered]
    return [Choice(name, metrics, best) for name, metrics, best in bests if best]


def _tries_several_methods(results: Mapping[str, Metrics]) -> bool:
    """Whether more than one way to train is among the results."""
    return len({_training(metrics) for metrics in results.values()}) > 1


def _training(metrics: Metrics) -> frozenset[str]:
    """The words of a method that its training depends on."""
    return frozenset(str(metrics["method"]).split("+")) - {"blend"}


def _advice(results: Mapping[str, Metrics], budget: float) -> str:
    winner, rival = contenders(results, budget)
    if winner is None:
        return _without_gain(ranked(results, budget), budget)
    opening = f"Without general text DG ≤ {budget:g} % cannot be checked; by S alone"
    if has_general_text(results):
        opening = f"Within the budget of DG ≤ {budget:g} %"
    gain = f"{_name(winner)} gains most, S {_outcome(winner)} at {place_of(winner.evaluation)}"
    if rival is not None:
        return f"{opening}, {gain}{_stake(winner, rival)}."
    if len(results) == 1:
        return f"{opening}, {gain}."
    alternative = "method" if _tries_several_methods(results) else "learning rate"
    within = " within it" if _has_loss(winner) else ""
    return f"{opening}, {gain}; no other {alternative} gained anything{within}."


def _stake(winner: Choice, rival: Choice) -> str:
    """The rest of the sentence: what the best of another method would have given."""
    runner_up = f"{_name(rival)} with S {_outcome(rival)} at {place_of(rival.evaluation)}"
    lead = winner.metrics.get("lead")
    if not lead or lead["over"] != rival.name:
        return f"; the runner-up is {runner_up}, though the two were not paired"
    low, high = lead["intervals"][_GAIN] or (None, None)
    if low is None or high is None:
        return f", which is not clearly better than {runner_up}"
    more = f"{lead[_GAIN]:.2f} [{low:.2f}, {high:.2f}] points"
    if low > 0:
        return f"; the runner-up is {runner_up}, {more} less"
    return f", which is not clearly better than {runner_up} ({more} more, paired)"


def _without_gain(results: Mapping[str, Metrics], budget: float) -> str:
    gains = [
        Choice(name, metrics, entry)
        for name, metrics in results.items()
        for entry in evaluations(metrics, _GAIN, _LOSS)
        if entry[_GAIN] > 0
    ]
    if not gains:
        return "Keep the starting model: nothing that was tried gained on the specialized text."
    cheapest = min(gains, key=lambda gain: float(gain.evaluation[_LOSS]))
    return (
        f"Nothing gained within the budget of DG ≤ {budget:g} %: the gain of least loss is "
        f"{_name(cheapest)} with S {_outcome(cheapest)} at {place_of(cheapest.evaluation)}, so "
        "accept that loss or keep the starting model."
    )


def _name(choice: Choice) -> str:
    return f"{choice.metrics['method']} at learning rate {learning_rate(choice.metrics)}"


def _outcome(choice: Choice) -> str:
    """S and what it cost, like `8.14 % for DG 0.42 %`."""
    gained = f"{choice.evaluation[_GAIN]:.2f} %"
    if _has_loss(choice):
        return f"{gained} for DG {choice.evaluation[_LOSS]:z.2f} %"
    if choice.metrics["forward_kl"] is None:
        return gained
    return f"{gained} for KL(p_T‖p_S) {choice.metrics['forward_kl']:.3f} nats a token"


def _has_loss(choice: Choice) -> bool:
    return choice.evaluation.get(_LOSS) is not None
