"""Which evaluation of a run counts under a budget of forgetting, and the order that this gives."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from minifinetuning.errors import InputError
from minifinetuning.report.tables import Metrics

__all__ = [
    "Choice",
    "Evaluation",
    "best_within",
    "choices",
    "contenders",
    "evaluations",
    "has_general_text",
    "is_blend",
    "place_of",
    "ranked",
    "tries_several_methods",
]

Evaluation = Mapping[str, Any]
"""One entry of `history`, or a whole Metrics, which describes the step kept in the same words."""


class Choice(NamedTuple):
    """A result by its name, and the evaluation at which one would stop it."""

    name: str
    metrics: Metrics
    evaluation: Evaluation


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
        for entry in evaluations(metrics, "specialization", "degeneralization")
        if entry["degeneralization"] <= budget and entry["specialization"] > 0
    ]
    return max(gains, key=lambda entry: float(entry["specialization"]), default=None)


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
    return any(metrics["degeneralization"] is not None for metrics in results.values())


def ranked(results: Mapping[str, Metrics], budget: float) -> dict[str, Metrics]:
    """The results by their best S within the budget (%), largest first, then by S as kept.

    Those that gained nothing within the budget come last; without general text S alone counts.
    Raises InputError where there is no result.
    """
    if not results:
        raise InputError("there is no result to compare: name at least one metrics.json")

    def gains(item: tuple[str, Metrics]) -> tuple[float, float]:
        best = best_within(item[1], budget)
        return best["specialization"] if best else -math.inf, item[1]["specialization"]

    return dict(sorted(results.items(), key=gains, reverse=True))


def choices(results: Mapping[str, Metrics], budget: float) -> list[Choice]:
    """Each result that gained something, at its largest S with DG <= `budget` (%); best first.

    Without general text the budget cannot be applied: S of the steps kept decides.
    """
    ordered = ranked(results, budget).items()
    if not has_general_text(results):
        return [Choice(*item, item[1]) for item in ordered if item[1]["specialization"] > 0]
    bests = [(*item, best_within(item[1], budget)) for item in ordered]
    return [Choice(name, metrics, best) for name, metrics, best in bests if best]


def contenders(
    results: Mapping[str, Metrics], budget: float
) -> tuple[Choice | None, Choice | None]:
    """The best choice, and the best of another method; of one method its next learning rate.

    A method that is only blended at the end is no other way to train.
    """
    if not results:
        return None, None
    found = choices(results, budget)
    several_methods = tries_several_methods(results)
    rivals = [
        choice
        for choice in found[1:]
        if not several_methods or _training(choice.metrics) != _training(found[0].metrics)
    ]
    return (found[0] if found else None), (rivals[0] if rivals else None)


def tries_several_methods(results: Mapping[str, Metrics]) -> bool:
    """Whether more than one way to train is among the results."""
    return len({_training(metrics) for metrics in results.values()}) > 1


def _training(metrics: Metrics) -> frozenset[str]:
    """The words of a method that its training depends on."""
    return frozenset(str(metrics["method"]).split("+")) - {"blend"}


def _has(entry: Evaluation, quantities: tuple[str, ...]) -> bool:
    values = [entry.get(quantity) for quantity in quantities]
    return all(value is not None and math.isfinite(value) for value in values)
