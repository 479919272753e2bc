"""Results side by side, as a Markdown table that also reads well in a terminal."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from minifinetuning.errors import InputError

__all__ = ["Metrics", "comparison_table", "markdown_table", "percent", "ratio"]

Metrics = Mapping[str, Any]
"""The content of a `metrics.json`."""

_ABSENT = "-"


def comparison_table(results: Mapping[str, Metrics]) -> str:
    """One row for the reference and one for each result, under the names that `results` gives them.

    The columns are S and DG (%), DG/S, and both perplexities, each change with its confidence
    interval. Where no result has general text, KL(p_T‖p_S) (nats) stands in place of DG and DG/S.
    Raises InputError where there is no result, or where two were measured against other references.
    """
    reference = _common_reference(results)
    has_general = any(metrics["degeneralization"] is not None for metrics in results.values())
    perplexities = ["specialized_perplexity", *(["general_perplexity"] if has_general else [])]
    lost = ["DG %", "DG/S"] if has_general else ["KL(p_T‖p_S) nats"]
    header = ["method", "S %", *lost, *(name.replace("_", " ") for name in perplexities)]
    blanks = [_ABSENT] * (1 + len(lost))
    rows = [["reference", *blanks, *(_number(reference[name]) for name in perplexities)]]
    for name, metrics in results.items():
        losses = (
            [percent(metrics, "degeneralization"), ratio(metrics)]
            if has_general
            else [_number(metrics["forward_kl"], 3)]
        )
        tuned = [_number(metrics["tuned"][name]) for name in perplexities]
        rows.append([name, percent(metrics, "specialization"), *losses, *tuned])
    return markdown_table([header, *rows])


def percent(metrics: Metrics, name: str) -> str:
    """S or DG with its interval, like `6.50 [5.90, 7.10]`."""
    return _with_interval(metrics[name], metrics["intervals"][name], digits=2)


def ratio(metrics: Metrics) -> str:
    """DG/S with its interval, like `0.062 [0.041, unbounded]`."""
    return _with_interval(metrics["ratio"], metrics["intervals"]["ratio"], digits=3)


def markdown_table(rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """Rows of cells, the header first: `words` columns flush left, the others flush right."""
    cells = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    left = [number < words for number in range(len(widths))]
    rule = [
        "-" * width if is_word else "-" * (width - 1) + ":"
        for width, is_word in zip(widths, left, strict=True)
    ]
    lines = [
        [
            cell.ljust(width) if is_word else cell.rjust(width)
            for cell, width, is_word in zip(row, widths, left, strict=True)
        ]
        for row in (cells[0], rule, *cells[1:])
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _common_reference(results: Mapping[str, Metrics]) -> Metrics:
    if not results:
        raise InputError("there is no result to compare: name at least one metrics.json")
    first, *others = results
    reference: Metrics = results[first]["reference"]
    for other in others:
        for text, perplexity in reference.items():
            own = results[other]["reference"][text]
            if None not in (perplexity, own) and not math.isclose(perplexity, own, rel_tol=0.01):
                raise InputError(
                    f"{first} and {other} were measured against other references "
                    f"({text.replace('_', ' ')} {perplexity:.2f} and {own:.2f}): compare results "
                    "of the same model and texts"
                )
    return reference


def _with_interval(
    value: float | None, interval: Sequence[float | None] | None, digits: int
) -> str:
    if interval is None:
        return _number(value, digits)
    bounds = ("unbounded" if bound is None else _number(bound, digits) for bound in interval)
    return f"{_number(value, digits)} [{', '.join(bounds)}]"


def _number(value: float | None, digits: int = 2) -> str:
    # Adding zero turns the "-0.0" that rounding may leave into "0.0".
    return _ABSENT if value is None else f"{round(value, digits) + 0.0:.{digits}f}"
