"""Which evaluation of a run counts under a budget of forgetting, and the order that this gives."""

import math
from collections.abc import Mapping
from typing import Any

from minifinetuning.errors import InputError
from minifinetuning.report.tables import Metrics

__all__ = [
    "Evaluation",
    "best_within",
    "evaluations",
    "has_general_text",
    "is_blend",
    "place_of",
    "ranked",
]

Evaluation = Mapping[str, Any]
"""One entry of `history`, or a whole Metrics, which describes the step kept in the same words."""


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


def _has(entry: Evaluation, quantities: tuple[str, ...]) -> bool:
    values = [entry.get(quantity) for quantity in quantities]
    return all(value is not None and math.isfinite(value) for value in values)
