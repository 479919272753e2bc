"""From the results of cells to one row for each method and learning rate."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from minifinetuning.errors import InputError
from minifinetuning.evaluation.comparison import mean_comparison, mean_difference
from minifinetuning.evaluation.scores import SPECIALIZED, DocumentEnds, TextScores
from minifinetuning.metrics import SequenceLosses
from minifinetuning.report.recommendation import Evaluation, contenders

__all__ = [
    "evaluation_record",
    "paired_difference",
    "pooled_rows",
    "scores_from",
    "scores_record",
]

Result = Mapping[str, Any]
Scores = Mapping[str, TextScores]

_OWN = ("identity", "cell", "scores", "evaluations")
"""What a result has for itself: `cell` in those of before version 0.2."""

_SHARED = (
    "method",
    "learning_rate",
    "configuration",
    "data",
    "texts",
    "versions",
    "device",
    "commit",
)
"""What the runs of a row have in common, or the first of them stands for."""


def pooled_rows(
    results: Sequence[Result], reference: Result, budget: float | None = None
) -> dict[str, dict[str, Any]]:
    """Metrics by name, seeds pooled: figures are means over seeds, peak memory is the largest.

    A name is the method, with its learning rate where the method has several. `reference` is the
    record of the starting model's scores. All but the first result have under `difference` what
    they gained and lost more than the first, on the seeds that both have (None where they have
    none in common), and under its key `from` the name of the first. With a `budget` (DG in %) the
    one that is recommended has under `lead` how far it is ahead of the next. Raises InputError for
    results that were measured on different texts.
    """
    _require_same_texts(results, reference)
    groups: dict[tuple[str, float], list[Result]] = {}
    for result in results:
        groups.setdefault((result["method"], result["learning_rate"]), []).append(result)
    methods = [method for method, _ in groups]
    named = {
        method if methods.count(method) == 1 else f"{method} @ {rate:g}": group
        for (method, rate), group in groups.items()
    }
    table = {name: _pooled(group, reference) for name, group in named.items()}
    for name in [*named][1:]:
        first = next(iter(named))
        difference = paired_difference(named[name], named[first], reference)
        table[name]["difference"] = difference and {"from": first, **difference}
    if budget is not None:
        _add_lead(table, named, reference, budget)
    return table


def paired_difference(
    theirs: Sequence[Result], ours: Sequence[Result], reference: Result
) -> dict[str, Any] | None:
    """What their results gained and lost more than ours, of the seeds that both have, or None.

    `reference` is the record of the starting model's scores; see `mean_difference`. Raises
    InputError for results that were measured on different texts.
    """
    _require_same_texts([*theirs, *ours], reference)
    return _difference(
        scores_from(reference),
        {run["seeds"][0]: scores_from(run["scores"]) for run in theirs},
        {run["seeds"][0]: scores_from(run["scores"]) for run in ours},
    )


def _difference(
    start: Scores, theirs: Mapping[int, Scores], ours: Mapping[int, Scores]
) -> dict[str, Any] | None:
    seeds = sorted(theirs.keys() & ours.keys())
    if not seeds:
        return None
    return mean_difference(start, [theirs[seed] for seed in seeds], [ours[seed] for seed in seeds])


def _add_lead(
    table: Mapping[str, dict[str, Any]],
    groups: Mapping[str, Sequence[Result]],
    reference: Result,
    budget: float,
) -> None:
    """Put under `lead` of the recommended row what it gained more than the next one (`over`).

    Each at its best evaluation within the budget: `specialization` in percent points, with its
    interval under `intervals`, over the seeds that both have. `groups` are the runs of each row.
    Nothing where there is no other, no seed in common, or no record of those evaluations.
    """
    winner, rival = contenders(table, budget)
    if winner is None or rival is None:
        return
    ours, theirs = (
        {
            run["seeds"][0]: scores
            for run in groups[choice.name]
            if (scores := _scores_at(choice.evaluation, run)) is not None
        }
        for choice in (winner, rival)
    )
    difference = _difference(scores_from({SPECIALIZED: reference[SPECIALIZED]}), ours, theirs)
    if difference is not None:
        intervals = {name: difference["intervals"][name] for name in ("level", "specialization")}
        table[winner.name]["lead"] = {
            "over": rival.name,
            "specialization": difference["specialization"],
            "intervals": intervals,
        }


def _scores_at(evaluation: Evaluation, run: Result) -> Scores | None:
    """The specialized text as the run scored it at this evaluation; None where nothing is kept."""
    kept = scores_from({SPECIALIZED: run["scores"][SPECIALIZED]})[SPECIALIZED]
    for record in run.get("evaluations", ()):
        if _step_and_coefficient(record) == _step_and_coefficient(evaluation):
            nats = torch.tensor(record["negative_log_likelihood"], dtype=torch.float64)
            losses = SequenceLosses(nats, kept.losses.tokens, kept.losses.documents)
            return {SPECIALIZED: TextScores(losses, None, kept.ends, kept.sequences)}
    # Results of before evaluations were kept know the step that was.
    is_kept = any(
        entry["specialization"] == run["specialization"]
        for entry in run["history"]
        if _step_and_coefficient(entry) == _step_and_coefficient(evaluation)
    )
    return {SPECIALIZED: kept} if is_kept else None


def _step_and_coefficient(evaluation: Evaluation) -> dict[str, Any]:
    """What tells an evaluation of a run from its others."""
    return {name: evaluation[name] for name in ("step", "coefficient") if name in evaluation}


def _require_same_texts(results: Sequence[Result], reference: Result) -> None:
    """Losses are paired sequence by sequence: those of another text would give nonsense."""
    for name, start in reference.items():
        found = {result.get("texts", {}).get(name) for result in results}
        counts = [result["scores"][name]["tokens"] for result in results]
        if len(found) > 1 or any(count != start["tokens"] for count in counts):
            raise InputError(
                f"these results were measured on different {name} validation texts, which cannot "
                "be held against each other: run them on one text, all by the same version"
            )


def _pooled(group: Sequence[Result], reference: Result) -> dict[str, Any]:
    first = group[0]
    if len(group) == 1:
        return {name: value for name, value in first.items() if name not in _OWN}
    scores = [scores_from(result["scores"]) for result in group]
    speeds = [result["tokens_per_second"] for result in group if result["tokens_per_second"]]
    return {
        **{name: first[name] for name in _SHARED if name in first},
        **mean_comparison(scores_from(reference), scores),
        "seeds": [seed for result in group for seed in result["seeds"]],
        "step": sorted(result["step"] for result in group)[len(group) // 2],
        "last_step": first["last_step"],
        "history": _mean_history([result["history"] for result in group]),
        "tokens_per_second": sum(speeds) / len(speeds) if speeds else None,
        "peak_memory_bytes": max(result["peak_memory_bytes"] for result in group),
        "trainable_parameters": first["trainable_parameters"],
    }


def _mean_history(histories: Sequence[Sequence[Result]]) -> list[dict[str, Any]]:
    """The evaluations that all runs have, each value the mean over the runs."""
    return [
        {
            name: value
            if name in ("step", "coefficient")
            else sum(entry[name] for entry in entries) / len(entries)
            for name, value in entries[0].items()
            if all(name in entry for entry in entries)
        }
        for entries in zip(*histories, strict=False)
    ]


def evaluation_record(entry: Evaluation, scores: Scores) -> dict[str, Any]:
    """The nats of each part of the specialized text at one evaluation: `scores` has the rest."""
    nats = scores[SPECIALIZED].losses.negative_log_likelihood.tolist()
    return {**_step_and_coefficient(entry), "negative_log_likelihood": nats}


def scores_record(scores: Scores) -> dict[str, Any]:
    """Scores as JSON: for each text nats, tokens and document of each part, and its ends."""
    return {
        name: {
            "negative_log_likelihood": score.losses.negative_log_likelihood.tolist(),
            "tokens": score.losses.tokens.tolist(),
            "documents": _listed(score.losses.documents),
            "forward_kl": _listed(score.forward_kl),
            "ends": asdict(score.ends),
            "sequences": score.sequences,
        }
        for name, score in scores.items()
    }


def scores_from(record: Result) -> dict[str, TextScores]:
    """What `scores_record` was made of, to the last bit.

    Results of before documents were told apart say nothing of them, and of all positions as text.
    """
    return {
        name: TextScores(
            SequenceLosses(
                torch.tensor(found["negative_log_likelihood"], dtype=torch.float64),
                torch.tensor(found["tokens"]),
                _tensor(found.get("documents"), torch.int64),
            ),
            _tensor(found["forward_kl"], torch.float64),
            DocumentEnds(**found["ends"]) if "ends" in found else DocumentEnds(0.0, 0),
            found.get("sequences"),
        )
        for name, found in record.items()
    }


def _listed(values: Tensor | None) -> list[Any] | None:
    return None if values is None else values.tolist()


def _tensor(values: list[Any] | None, dtype: torch.dtype) -> Tensor | None:
    return None if values is None else torch.tensor(values, dtype=dtype)
