"""How far the best result of a comparison is ahead of the next, on the same resamples."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from minifinetuning.evaluation.comparison import mean_difference
from minifinetuning.evaluation.scores import SPECIALIZED, TextScores
from minifinetuning.lab.compare.scores import scores_from
from minifinetuning.metrics import SequenceLosses
from minifinetuning.report.ranking import Evaluation, contenders

__all__ = ["evaluation_record", "lead"]

Result = Mapping[str, Any]


def evaluation_record(entry: Evaluation, scores: Mapping[str, TextScores]) -> dict[str, Any]:
    """The nats of each part of the specialized text at one evaluation: `scores` has the rest."""
    nats = scores[SPECIALIZED].losses.negative_log_likelihood.tolist()
    return {**_place(entry), "negative_log_likelihood": nats}


def lead(
    table: Mapping[str, Result],
    groups: Mapping[str, Sequence[Result]],
    reference: Result,
    budget: float,
) -> tuple[str, dict[str, Any]] | None:
    """The name of the result that `recommendation` names, and by how much it leads; or None.

    What it gained more than the next one (`over`), each at its best evaluation within the budget:
    `specialization` in percent points, with its interval under `intervals`, over the seeds that
    both have. `groups` are the runs that each result of the table is made of. None where there is
    no other, no seed in common, or nothing is kept of how the two were at those evaluations.
    """
    winner, rival = contenders(table, budget)
    if winner is None or rival is None:
        return None
    by_seed = [
        {run["seeds"][0]: _scores(run, choice.evaluation) for run in groups[choice.name]}
        for choice in (winner, rival)
    ]
    ours, theirs = ({seed: s for seed, s in runs.items() if s is not None} for runs in by_seed)
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    start = {SPECIALIZED: scores_from({SPECIALIZED: reference[SPECIALIZED]})[SPECIALIZED]}
    difference = mean_difference(
        start, [ours[seed] for seed in seeds], [theirs[seed] for seed in seeds]
    )
    intervals = {name: difference["intervals"][name] for name in ("level", "specialization")}
    return winner.name, {
        "over": rival.name,
        "specialization": difference["specialization"],
        "intervals": intervals,
    }


def _scores(run: Result, evaluation: Evaluation) -> dict[str, TextScores] | None:
    """The specialized text as the run scored it at this evaluation."""
    kept = scores_from({SPECIALIZED: run["scores"][SPECIALIZED]})[SPECIALIZED]
    for record in run.get("evaluations", ()):
        if _place(record) == _place(evaluation):
            nats = torch.tensor(record["negative_log_likelihood"], dtype=torch.float64)
            losses = SequenceLosses(nats, kept.losses.tokens, kept.losses.documents)
            return {SPECIALIZED: TextScores(losses, None, kept.ends, kept.sequences)}
    # Results of before evaluations were kept know the step that was.
    gained = [entry for entry in run["history"] if _place(entry) == _place(evaluation)]
    is_kept = any(entry["specialization"] == run["specialization"] for entry in gained)
    return {SPECIALIZED: kept} if is_kept else None


def _place(evaluation: Evaluation) -> dict[str, Any]:
    """What tells an evaluation of a run from its others."""
    names = ("step", "coefficient") if "coefficient" in evaluation else ("step",)
    return {name: evaluation[name] for name in names}
