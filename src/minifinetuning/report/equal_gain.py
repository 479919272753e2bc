"""Two methods at the same gain: what each had lost by then."""

from itertools import pairwise
from typing import Any

from minifinetuning.report.tables import Metrics

__all__ = ["degeneralization_at", "equal_specialization"]


def equal_specialization(kept: Metrics, other: Metrics) -> str:
    """One sentence: DG of `other` when its S passed the S that `kept` ended with.

    A method that trains harder gains and loses more in the same steps, so its DG/S at its own end
    says little; on its way it passed the other's S. DG there is interpolated.
    Empty where general text is missing.
    """
    gained, lost = kept["specialization"], kept["degeneralization"]
    if lost is None or gained <= 0:
        return ""
    name, other_name = kept["method"], other["method"]
    there = degeneralization_at(gained, other["history"])
    if there is None:
        return f"{other_name} never reached the S of {name}, {gained:.2f} %."
    return (
        f"At the S that {name} ended with, {gained:.2f} %: {name} had lost DG {lost:.2f} % "
        f"(DG/S {lost / gained:.3f}), {other_name} {there:.2f} % (DG/S {there / gained:.3f})."
    )


def degeneralization_at(specialization: float, history: list[dict[str, Any]]) -> float | None:
    """DG (%) where S first passed `specialization` (%), interpolated; None where it never did."""
    for before, after in pairwise(history):
        low, high = float(before["specialization"]), float(after["specialization"])
        if low <= specialization <= high and high > low:
            share = (specialization - low) / (high - low)
            start, end = float(before["degeneralization"]), float(after["degeneralization"])
            return start + share * (end - start)
    return None
