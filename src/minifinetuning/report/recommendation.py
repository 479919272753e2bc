"""What a comparison comes to, in one sentence."""

import math
from collections.abc import Mapping

from minifinetuning.report.method_table import learning_rate
from minifinetuning.report.ranking import (
    Evaluation,
    best_within,
    evaluations,
    has_general_text,
    place_of,
    ranked,
)
from minifinetuning.report.tables import Metrics

__all__ = ["recommendation"]

Choice = tuple[Metrics, Evaluation]
"""A result and the evaluation at which one would stop it."""


def recommendation(results: Mapping[str, Metrics], budget: float) -> str:
    """The result and step with the largest S among all evaluations with DG <= `budget` (%).

    The best of another method, the runner-up, is named with its S. Where the winner's S is within
    the runner-up's interval (as wide as at the step that the runner-up kept, around its S here),
    the sentence says "not clearly better than". Without general text the budget cannot be applied:
    S of the steps kept decides, and the sentence says so.
    Raises InputError where there is no result.
    """
    ordered = list(ranked(results, budget).values())
    if has_general_text(results):
        bests = [(metrics, best_within(metrics, budget)) for metrics in ordered]
        choices = [(metrics, best) for metrics, best in bests if best]
        opening = f"Within the budget of DG ≤ {budget:g} %"
    else:
        choices = [(metrics, metrics) for metrics in ordered if metrics["specialization"] > 0]
        opening = f"Without general text DG ≤ {budget:g} % cannot be checked; by S alone"
    if not choices:
        return _without_gain(ordered, budget)
    winner = choices[0]
    gain = f"{_name(winner[0])} gains most, S {_outcome(winner)} at {place_of(winner[1])}"
    return f"{opening}, {gain}{_stake(winner, choices[1:], ordered)}."


def _stake(winner: Choice, others: list[Choice], results: list[Metrics]) -> str:
    """The rest of the sentence: what the best of another method would have given.

    Where only one method was tried, its next learning rate takes that place.
    """
    several_methods = len({_training(metrics) for metrics in results}) > 1
    rivals = [
        choice
        for choice in others
        if not several_methods or _training(choice[0]) != _training(winner[0])
    ]
    if not rivals and len(results) == 1:
        return ""
    if not rivals:
        alternative = "method" if several_methods else "learning rate"
        return f"; no other {alternative} gained anything" + " within it" * _has_loss(winner)
    rival, evaluation = rivals[0]
    runner_up = f"{_name(rival)} with S {_outcome(rivals[0])} at {place_of(evaluation)}"
    if winner[1]["specialization"] > evaluation["specialization"] + _margin(rival):
        return f"; the runner-up is {runner_up}"
    level = 100 * rival["intervals"]["level"]
    return f", which is not clearly better than {runner_up} (within its {level:g} % interval)"


def _training(metrics: Metrics) -> frozenset[str]:
    """The words of a method; one that is only blended at the end is no other way to train."""
    return frozenset(str(metrics["method"]).split("+")) - {"blend"}


def _margin(metrics: Metrics) -> float:
    """How far (%) the interval of S reaches above S at the step kept."""
    interval = metrics["intervals"]["specialization"]
    if interval is None or interval[1] is None:
        return math.inf
    return float(interval[1] - metrics["specialization"])


def _without_gain(results: list[Metrics], budget: float) -> str:
    gains = [
        (metrics, entry)
        for metrics in results
        for entry in evaluations(metrics, "specialization", "degeneralization")
        if entry["specialization"] > 0
    ]
    if not gains:
        return "Keep the starting model: nothing that was tried gained on the specialized text."
    cheapest = min(gains, key=lambda gain: float(gain[1]["degeneralization"]))
    return (
        f"Nothing gained within the budget of DG ≤ {budget:g} %: the gain of least loss is "
        f"{_name(cheapest[0])} with S {_outcome(cheapest)} at {place_of(cheapest[1])}, so "
        "accept that loss or keep the starting model."
    )


def _name(metrics: Metrics) -> str:
    return f"{metrics['method']} at learning rate {learning_rate(metrics)}"


def _outcome(choice: Choice) -> str:
    """S and what it cost, like `8.14 % for DG 0.42 %`."""
    metrics, evaluation = choice
    gained = f"{evaluation['specialization']:.2f} %"
    if _has_loss(choice):
        return f"{gained} for DG {evaluation['degeneralization']:z.2f} %"
    if metrics["forward_kl"] is None:
        return gained
    return f"{gained} for KL(p_T‖p_S) {metrics['forward_kl']:.3f} nats a token"


def _has_loss(choice: Choice) -> bool:
    return choice[1].get("degeneralization") is not None
