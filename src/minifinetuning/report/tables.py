"""Results side by side, as Markdown tables that also read well in a terminal."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from minifinetuning.errors import InputError
from minifinetuning.report.recommendation import (
    best_within,
    evaluations,
    has_general_text,
    place_of,
    ranked,
)
from minifinetuning.report.sentences import (
    Metrics,
    degeneralization_at,
    learning_rate,
    measured_on,
    number,
    percent,
    ratio,
)

__all__ = [
    "Cell",
    "Column",
    "compared_with",
    "comparison_table",
    "difference_columns",
    "difference_table",
    "markdown_table",
    "method_columns",
    "method_table",
    "tau_table",
]

_GAIN, _LOSS = "specialization", "degeneralization"


class Cell(NamedTuple):
    """One value as it is shown, with a `note` (its interval, its step), and what it sorts by."""

    text: str
    value: float | str | None
    note: str = ""


_ABSENT = Cell("-", None)


@dataclass(frozen=True)
class Column:
    """A title and a cell for each result; `in_order` where the rows fall from its largest value."""

    title: str
    cells: list[Cell]
    in_order: bool = False


def comparison_table(results: Mapping[str, Metrics]) -> str:
    """One row for the reference and one for each result, under the names that `results` gives them.

    The columns are S and DG (%), DG/S, and both perplexities, each change with its confidence
    interval. Where no result has general text, KL(p_T‖p_S) (nats) stands in place of DG and DG/S.
    Raises InputError where there is no result, or where two were measured against other references.
    """
    reference = _common_reference(results)
    has_general = has_general_text(results)
    perplexities = ["specialized_perplexity", *(["general_perplexity"] if has_general else [])]
    lost = ["DG %", "DG/S"] if has_general else ["KL(p_T‖p_S) nats"]
    header = ["method", "S %", *lost, *(name.replace("_", " ") for name in perplexities)]
    blanks = ["-"] * (1 + len(lost))
    rows = [["reference", *blanks, *(number(reference[name]) for name in perplexities)]]
    for name, metrics in results.items():
        losses = (
            [percent(metrics, _LOSS), ratio(metrics)]
            if has_general
            else [number(metrics["forward_kl"], 3)]
        )
        tuned = [number(metrics["tuned"][name]) for name in perplexities]
        rows.append([name, percent(metrics, _GAIN), *losses, *tuned])
    return markdown_table([header, *rows])


def method_table(results: Mapping[str, Metrics], budget: float) -> str:
    """One row a result, as Markdown; `budget` is the largest DG (%) that the reader would accept.

    The columns are method, learning rate, S (%), DG (%) and DG/S of the step kept, each with its
    interval; DG where S passed a gain common to the methods; the best S of any evaluation within
    the budget, by which the rows are sorted, largest first; tokens a second; peak memory (GiB);
    and the number of trainable parameters. Speed or memory that no result has measured is left out.

    Without general text KL(p_T‖p_S) (nats) stands for the loss, and the rows are sorted by S.
    Raises InputError where there is no result.
    """
    return _columns_table(method_columns(ranked(results, budget), budget))


def method_columns(results: Mapping[str, Metrics], budget: float) -> list[Column]:
    """The columns of `method_table`, with a cell for each result in the order of `results`."""
    rows = list(results.values())
    has_general = has_general_text(results)
    rates = [Cell(learning_rate(metrics), metrics["learning_rate"]) for metrics in rows]
    columns = [
        Column("method", [Cell(metrics["method"], metrics["method"]) for metrics in rows]),
        Column("learning rate", rates),
        Column("S %", _measured(rows, _GAIN), in_order=not has_general),
    ]
    if has_general:
        columns += [
            Column("DG %", _measured(rows, _LOSS)),
            Column("DG/S", _measured(rows, "ratio")),
        ]
        common = _common_gain(results)
        if common is not None:
            losses = [_loss_at(common, metrics) for metrics in rows]
            columns.append(Column(f"DG % at S = {common:g} %", losses))
        bests = [_best(metrics, budget) for metrics in rows]
        columns.append(Column(f"best S % with DG ≤ {budget:g} %", bests, in_order=True))
    else:
        columns.append(Column("KL(p_T‖p_S) nats", _figures(rows, "forward_kl", ".3f")))
    costs = [
        Column("tokens/s", _figures(rows, "tokens_per_second", ",.0f")),
        Column("memory GiB", _figures(rows, "peak_memory_bytes", ".2f", unit=2**30)),
        Column("trainable parameters", [_parameters(metrics) for metrics in rows]),
    ]
    return columns + [cost for cost in costs if set(cost.cells) != {_ABSENT}]


def difference_table(results: Mapping[str, Metrics]) -> str | None:
    """One row for each other result, as Markdown, in the order of `results`; None without others.

    The columns are S and DG (percent points) and DG/S, each less that of the first result that was
    named, with its interval.
    """
    columns = difference_columns(results)
    return _columns_table(columns) if columns else None


def difference_columns(results: Mapping[str, Metrics]) -> list[Column]:
    """The columns of `difference_table`; none where there is nothing to compare."""
    first = compared_with(results)
    others = {name: metrics for name, metrics in results.items() if metrics.get("difference")}
    if first is None:
        return []
    quantities = {"S, points": _GAIN}
    if has_general_text(others):
        quantities |= {"DG, points": _LOSS, "DG/S": "ratio"}
    differences = [metrics["difference"] for metrics in others.values()]
    return [Column(f"compared with {first}", [Cell(name, name) for name in others])] + [
        Column(title, [_signed(cell) for cell in _measured(differences, quantity)])
        for title, quantity in quantities.items()
    ]


def compared_with(results: Mapping[str, Metrics]) -> str | None:
    """The name of the result that the others are held against; None where there are no others."""
    known = (metrics.get("difference") for metrics in results.values())
    return next((str(difference["from"]) for difference in known if difference), None)


def tau_table(metrics: Metrics) -> str:
    """How tau was chosen, as Markdown: each tau tried, what came of it, and a check on other text.

    It is the `tau_search` of a metrics.json.
    """
    search = metrics["tau_search"]
    budget = search["pilot_budget"]
    rows = [["τ", "S %", "DG %", ""]]
    for pilot in search["pilots"]:
        note = "within" if pilot[_LOSS] <= budget else "beyond"
        chosen = ", chosen" if pilot["tau"] == search["tau"] else ""
        rows.append(
            [f"{pilot['tau']:g}", f"{pilot[_GAIN]:.2f}", f"{pilot[_LOSS]:.2f}", note + chosen]
        )
    held_out = search["held_out"]
    kept = "holds" if held_out[_LOSS] <= search["budget"] else "does not hold"
    return (
        f"{markdown_table(rows)}\n\n"
        f"Pilot runs of {search['pilot_steps']} steps each, held to DG ≤ {budget:.2g} %: at that "
        f"growth (steps to the power of {search['growth']:.2g}) the full run comes to the budget "
        f"of {search['budget']:g} %. After the full run, on text that had no part in the choice: S "
        f"{percent(held_out, _GAIN)} %, DG {percent(held_out, _LOSS)} %, so the budget {kept} "
        f"there. {measured_on(held_out)}"
    )


def markdown_table(rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """Rows of cells, the header first: `words` columns flush left, the others flush right."""
    cells = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * width if n < words else "-" * (width - 1) + ":" for n, width in enumerate(widths)]
    lines = [
        [
            cell.ljust(width) if n < words else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in (cells[0], rule, *cells[1:])
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _columns_table(columns: Sequence[Column]) -> str:
    """The columns as Markdown, each note behind its value."""
    cells = [
        [column.title, *(f"{cell.text} {cell.note}".strip() for cell in column.cells)]
        for column in columns
    ]
    return markdown_table(list(zip(*cells, strict=True)))


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


def _common_gain(results: Mapping[str, Metrics]) -> float | None:
    """The S (%) at which methods are compared, rounded down to two digits; None if none gained.

    It is the largest S that every method reached, at any learning rate and evaluation. A method
    that never came to half of the largest S of all does not count, or it would drag the comparison
    to where nobody has lost anything yet.
    """
    peaks: dict[str, float] = {}
    for metrics in results.values():
        gains = [entry[_GAIN] for entry in evaluations(metrics, _GAIN, _LOSS)]
        peaks[metrics["method"]] = max(peaks.get(metrics["method"], 0.0), *gains, 0.0)
    largest = max(peaks.values())
    if largest == 0:
        return None
    common = min(peak for peak in peaks.values() if peak >= largest / 2)
    scale = 10.0 ** (1 - math.floor(math.log10(common)))
    return math.floor(common * scale) / scale


def _measured(rows: Sequence[Metrics], quantity: str) -> list[Cell]:
    """Cells of values that are shown like `6.50 [5.90, 7.10]`, the interval as their note."""
    cells = []
    for metrics in rows:
        shown = ratio(metrics) if quantity == "ratio" else percent(metrics, quantity)
        text, _, interval = shown.partition(" ")
        value = metrics[quantity]
        cells.append(_ABSENT if value is None else Cell(text, value, interval))
    return cells


def _signed(cell: Cell) -> Cell:
    return cell if cell.text.startswith("-") else cell._replace(text=f"+{cell.text}")


def _loss_at(gain: float, metrics: Metrics) -> Cell:
    lost = degeneralization_at(gain, evaluations(metrics, _GAIN, _LOSS))
    return _ABSENT if lost is None else Cell(f"{lost:z.2f}", lost)


def _best(metrics: Metrics, budget: float) -> Cell:
    best = best_within(metrics, budget)
    if best is None:
        return _ABSENT
    return Cell(f"{best[_GAIN]:.2f}", best[_GAIN], f"at {place_of(best)}")


def _figures(rows: Sequence[Metrics], name: str, form: str, unit: int = 1) -> list[Cell]:
    values = [metrics[name] for metrics in rows]
    return [_ABSENT if v is None else Cell(format(v / unit, form), v) for v in values]


def _parameters(metrics: Metrics) -> Cell:
    """A count like `135 M`, `2.4 M` or `900`."""
    count = metrics["trainable_parameters"]
    for letter, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        scaled = count / size
        if scaled >= 0.9995:  # less shows as a thousand of the next unit
            return Cell(f"{scaled:.{1 if scaled < 9.95 else 0}f} {letter}", count)
    return Cell(str(count), count)
