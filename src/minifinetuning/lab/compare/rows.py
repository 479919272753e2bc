"""From the results of cells to one row for each method and learning rate."""

from collections.abc import Mapping, Sequence
from typing import Any

from minifinetuning.errors import InputError
from minifinetuning.evaluation.comparison import mean_comparison, mean_difference
from minifinetuning.lab.compare.lead import lead
from minifinetuning.lab.compare.scores import scores_from

__all__ = ["paired_difference", "rows"]

Result = dict[str, Any]

_OWN = ("identity", "cell", "scores", "evaluations")
"""What a result has for itself: `cell` in those of before version 0.2."""


def rows(
    results: Sequence[Result], reference: Result, budget: float | None = None
) -> dict[str, Result]:
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
    found = None if budget is None else lead(table, named, reference, budget)
    if found is not None:
        winner, ahead = found
        table[winner]["lead"] = ahead
    return table


def paired_difference(
    theirs: Sequence[Mapping[str, Any]],
    ours: Sequence[Mapping[str, Any]],
    reference: Mapping[str, Any],
) -> dict[str, Any] | None:
    """What their results gained and lost more than ours, of the seeds that both have, or None.

    `reference` is the record of the starting model's scores; see `mean_difference`. Raises
    InputError for results that were measured on different texts.
    """
    _require_same_texts([*theirs, *ours], reference)
    by_seed = [{run["seeds"][0]: scores_from(run["scores"]) for run in of} for of in (theirs, ours)]
    seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
    if not seeds:
        return None
    return mean_difference(
        scores_from(reference), *([runs[seed] for seed in seeds] for runs in by_seed)
    )


def _require_same_texts(results: Sequence[Mapping[str, Any]], reference: Mapping[str, Any]) -> None:
    """Losses are paired sequence by sequence: those of another text would give nonsense."""
    for name, start in reference.items():
        found = {result.get("texts", {}).get(name) for result in results}
        counts = [result["scores"][name]["tokens"] for result in results]
        if len(found) > 1 or any(count != start["tokens"] for count in counts):
            raise InputError(
                f"these results were measured on different {name} validation texts, which cannot "
                "be held against each other: run them on one text, all by the same version"
            )


def _pooled(group: list[Result], reference: Result) -> Result:
    if len(group) == 1:
        return {name: value for name, value in group[0].items() if name not in _OWN}
    first = group[0]
    scores = [scores_from(result["scores"]) for result in group]
    speeds = [result["tokens_per_second"] for result in group if result["tokens_per_second"]]
    kept = ("method", "learning_rate", "configuration", "data", "texts", "versions", "device")
    return {
        **{name: first[name] for name in (*kept, "commit") if name in first},
        **mean_comparison(scores_from(reference), scores),
        "seeds": [seed for result in group for seed in result["seeds"]],
        "step": sorted(result["step"] for result in group)[len(group) // 2],
        "last_step": first["last_step"],
        "history": _mean_history([result["history"] for result in group]),
        "tokens_per_second": sum(speeds) / len(speeds) if speeds else None,
        "peak_memory_bytes": max(result["peak_memory_bytes"] for result in group),
        "trainable_parameters": first["trainable_parameters"],
    }


def _mean_history(histories: list[list[Result]]) -> list[Result]:
    """The evaluations that all runs have, each value the mean over the runs."""
    by_place = zip(*histories, strict=False)
    return [
        {
            name: value
            if name in ("step", "coefficient")
            else sum(entry[name] for entry in entries) / len(entries)
            for name, value in entries[0].items()
            if all(name in entry for entry in entries)
        }
        for entries in by_place
    ]
