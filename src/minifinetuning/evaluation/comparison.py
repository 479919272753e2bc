"""Compare two models' scores: what tuning gained and lost, as `metrics.json` says it."""

import math
from collections.abc import Sequence
from typing import Any

from minifinetuning.evaluation.scores import GENERAL, SPECIALIZED, Scores, TextScores
from minifinetuning.metrics import (
    Change,
    Pairs,
    degeneralization,
    difference,
    mean_changes,
    ratio,
    specialization,
)

__all__ = ["comparison", "mean_comparison", "mean_difference", "measurements"]


def measurements(scores: Scores, reference: Scores | None) -> dict[str, float]:
    """What an evaluation logs: each text's perplexity, the loss, and S, DG and DG/S in %.

    `loss` is the mean over the specialized text in nats. The changes need a `reference`, DG needs
    general text, and `forward_kl` needs a teacher to have been asked.
    """
    values = {f"{name}_perplexity": score.perplexity for name, score in scores.items()}
    first = scores.get(SPECIALIZED) or next(iter(scores.values()))
    values["loss"] = math.log(first.perplexity)
    if first.mean_forward_kl is not None:
        values["forward_kl"] = first.mean_forward_kl
    if reference is None or SPECIALIZED not in scores:
        return values
    gained = specialization(reference[SPECIALIZED].perplexity, first.perplexity)
    values["specialization"] = gained
    if GENERAL in scores:
        lost = degeneralization(reference[GENERAL].perplexity, scores[GENERAL].perplexity)
        values["degeneralization"] = lost
        if gained > 0:
            values["ratio"] = ratio(lost, gained)
    return values


def comparison(reference: Scores, tuned: Scores) -> dict[str, Any]:
    """What tuning gained and lost: the head of `metrics.json`.

    Keys: `reference` and `tuned` (each `specialized_perplexity`, `general_perplexity`),
    `specialization` and `degeneralization` in %, `ratio`, `intervals` (95 %, paired bootstrap over
    documents), `validation` (of how many documents, sequences and tokens the figures are, by text),
    `end_of_document` (perplexity of the token that closes one, by text) and `forward_kl` in nats
    per token. What needs general text is None without it, and so is a bound that is infinite.
    """
    return mean_comparison(reference, [tuned])


def mean_comparison(reference: Scores, runs: Sequence[Scores]) -> dict[str, Any]:
    """`comparison` of several runs of one method: its figures are the means over the runs."""
    divergences = [tuned[SPECIALIZED].mean_forward_kl for tuned in runs]
    known = [value for value in divergences if value is not None]
    return {
        "reference": _perplexities([reference]),
        "tuned": _perplexities(runs),
        **_record(mean_changes(*_pairs(reference, runs))),
        "validation": {
            name: _extent(reference[name]) if name in reference else None
            for name in (SPECIALIZED, GENERAL)
        },
        "end_of_document": {
            name: _end_of_document(reference[name], [run[name] for run in runs])
            for name in (SPECIALIZED, GENERAL)
            if name in reference
        },
        "forward_kl": sum(known) / len(known) if known else None,
    }


def mean_difference(
    reference: Scores, theirs: Sequence[Scores], ours: Sequence[Scores]
) -> dict[str, Any]:
    """What the runs of one method gained and lost more than those of another: see `difference`.

    Keys: `specialization` and `degeneralization` in percent points, `ratio`, and their `intervals`.
    The n-th runs of both are of one seed.
    """
    return _record(difference(_pairs(reference, theirs), _pairs(reference, ours)))


def _pairs(reference: Scores, runs: Sequence[Scores]) -> tuple[Pairs, Pairs | None]:
    """The losses before and after each run, on the specialized and on the general text."""
    pairs = {
        name: [(reference[name].losses, tuned[name].losses) for tuned in runs] for name in reference
    }
    return pairs[SPECIALIZED], pairs.get(GENERAL)


def _record(change: Change) -> dict[str, Any]:
    return {
        "specialization": change.specialization,
        "degeneralization": change.degeneralization,
        "ratio": _finite(change.ratio),
        "intervals": {
            "level": 0.95,
            "specialization": _bounds(change.specialization_interval),
            "degeneralization": _bounds(change.degeneralization_interval),
            "ratio": _bounds(change.ratio_interval),
        },
    }


def _perplexities(runs: Sequence[Scores]) -> dict[str, float | None]:
    """The mean over the runs on each text; None for a text that they have not."""
    return {
        f"{name}_perplexity": sum(scores[name].perplexity for scores in runs) / len(runs)
        if name in runs[0]
        else None
        for name in (SPECIALIZED, GENERAL)
    }


def _extent(scores: TextScores) -> dict[str, int | None]:
    """Of how much the figures of a text are."""
    return {
        "documents": scores.losses.document_count,
        "sequences": scores.sequences,
        "tokens": int(scores.losses.tokens.sum()),
    }


def _end_of_document(reference: TextScores, runs: Sequence[TextScores]) -> dict[str, Any] | None:
    """Before and after, on the documents that end in the text; None where none does."""
    before = reference.ends.perplexity
    if before is None:
        return None
    after = sum(run.ends.perplexity or 0.0 for run in runs) / len(runs)
    return {
        "documents": reference.ends.documents,
        "reference_perplexity": _finite(before),
        "tuned_perplexity": _finite(after),
    }


def _bounds(interval: tuple[float, float] | None) -> list[float | None] | None:
    return None if interval is None else [_finite(bound) for bound in interval]


def _finite(value: float | None) -> float | None:
    """JSON has no infinity and no NaN."""
    return value if value is not None and math.isfinite(value) else None
