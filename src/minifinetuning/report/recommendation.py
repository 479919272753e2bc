"""What a comparison comes to, in one sentence, and one more where its DG is negative."""

from collections.abc import Mapping

from minifinetuning.report.method_table import learning_rate
from minifinetuning.report.ranking import (
    Choice,
    contenders,
    evaluations,
    has_general_text,
    place_of,
    ranked,
    tries_several_methods,
)
from minifinetuning.report.tables import Metrics
from minifinetuning.report.unprepared import about_unprepared

__all__ = ["recommendation"]


def recommendation(results: Mapping[str, Metrics], budget: float) -> str:
    """The result and step with the largest S among all evaluations with DG <= `budget` (%).

    The best of another method, the runner-up, is named with its S. Which of two is better is judged
    as everywhere, by their difference on the same resamples: `lead` of the winner, see
    `experiments.compare.lead`. Where that holds zero the sentence says "not clearly better than",
    and where it is not known, that it is not. Without general text the budget cannot be applied: S
    of the steps kept decides, and the sentence says so.
    Where DG is negative a sentence more says so. Raises InputError where there is no result.
    """
    return " ".join(filter(None, (_advice(results, budget), about_unprepared(results))))


def _advice(results: Mapping[str, Metrics], budget: float) -> str:
    ordered = list(ranked(results, budget).values())
    winner, rival = contenders(results, budget)
    if winner is None:
        return _without_gain(ordered, budget)
    opening = f"Without general text DG ≤ {budget:g} % cannot be checked; by S alone"
    if has_general_text(results):
        opening = f"Within the budget of DG ≤ {budget:g} %"
    gain = f"{_name(winner.metrics)} gains most, S {_outcome(winner)} at "
    gain += place_of(winner.evaluation)
    if rival is not None:
        return f"{opening}, {gain}{_stake(winner, rival)}."
    if len(results) == 1:
        return f"{opening}, {gain}."
    alternative = "method" if tries_several_methods(results) else "learning rate"
    within = " within it" if _has_loss(winner) else ""
    return f"{opening}, {gain}; no other {alternative} gained anything{within}."


def _stake(winner: Choice, rival: Choice) -> str:
    """The rest of the sentence: what the best of another method would have given."""
    runner_up = f"{_name(rival.metrics)} with S {_outcome(rival)} at {place_of(rival.evaluation)}"
    lead = winner.metrics.get("lead")
    if not lead or lead["over"] != rival.name:
        return f"; the runner-up is {runner_up}, though the two were not paired"
    low, high = lead["intervals"]["specialization"] or (None, None)
    if low is None or high is None:
        return f", which is not clearly better than {runner_up}"
    more = _points(lead["specialization"], low, high)
    if low > 0:
        return f"; the runner-up is {runner_up}, {more} less"
    return f", which is not clearly better than {runner_up} ({more} more, paired)"


def _points(value: float, low: float, high: float) -> str:
    return f"{value:.2f} [{low:.2f}, {high:.2f}] points"


def _without_gain(results: list[Metrics], budget: float) -> str:
    gains = [
        Choice("", metrics, entry)
        for metrics in results
        for entry in evaluations(metrics, "specialization", "degeneralization")
        if entry["specialization"] > 0
    ]
    if not gains:
        return "Keep the starting model: nothing that was tried gained on the specialized text."
    cheapest = min(gains, key=lambda gain: float(gain.evaluation["degeneralization"]))
    return (
        f"Nothing gained within the budget of DG ≤ {budget:g} %: the gain of least loss is "
        f"{_name(cheapest.metrics)} with S {_outcome(cheapest)} at "
        f"{place_of(cheapest.evaluation)}, so "
        "accept that loss or keep the starting model."
    )


def _name(metrics: Metrics) -> str:
    return f"{metrics['method']} at learning rate {learning_rate(metrics)}"


def _outcome(choice: Choice) -> str:
    """S and what it cost, like `8.14 % for DG 0.42 %`."""
    _, metrics, evaluation = choice
    gained = f"{evaluation['specialization']:.2f} %"
    if _has_loss(choice):
        return f"{gained} for DG {evaluation['degeneralization']:z.2f} %"
    if metrics["forward_kl"] is None:
        return gained
    return f"{gained} for KL(p_T‖p_S) {metrics['forward_kl']:.3f} nats a token"


def _has_loss(choice: Choice) -> bool:
    return choice.evaluation.get("degeneralization") is not None
