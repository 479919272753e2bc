"""Many methods at several learning rates in one table: gain, loss, both made equal, and cost."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from minifinetuning.report.equal_gain import degeneralization_at
from minifinetuning.report.ranking import (
    best_within,
    evaluations,
    has_general_text,
    place_of,
    ranked,
)
from minifinetuning.report.tables import Metrics, markdown_table, percent, ratio

__all__ = [
    "Cell",
    "Column",
    "columns_table",
    "learning_rate",
    "measured_cell",
    "method_columns",
    "method_table",
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


def method_table(results: Mapping[str, Metrics], budget: float) -> str:
    """One row a result, as Markdown; `budget` is the largest DG (%) that the reader would accept.

    The columns are method, learning rate, S (%), DG (%) and DG/S of the step kept, each with its
    interval; DG where S passed a gain common to the methods; the best S of any evaluation within
    the budget, by which the rows are sorted, largest first; tokens a second; peak memory (GiB);
    and the number of trainable parameters. Speed or memory that no result has measured is left out.

    Without general text KL(p_T‖p_S) (nats) stands for the loss, and the rows are sorted by S.
    Raises InputError where there is no result.
    """
    return columns_table(method_columns(ranked(results, budget), budget))


def columns_table(columns: Sequence[Column]) -> str:
    """The columns as Markdown."""
    cells = [[column.title, *map(_with_note, column.cells)] for column in columns]
    return markdown_table(list(zip(*cells, strict=True)))


def method_columns(results: Mapping[str, Metrics], budget: float) -> list[Column]:
    """The columns of `method_table`, with a cell for each result in the order of `results`."""

    def column(title: str, cell: Callable[[Metrics], Cell], *, in_order: bool = False) -> Column:
        return Column(title, [cell(metrics) for metrics in results.values()], in_order)

    has_general = has_general_text(results)
    columns = [
        column("method", lambda metrics: Cell(metrics["method"], metrics["method"])),
        column("learning rate", _rate_cell),
        column("S %", _percent_cell(_GAIN), in_order=not has_general),
    ]
    if has_general:
        columns += [column("DG %", _percent_cell(_LOSS)), column("DG/S", _ratio_cell)]
        common = _common_gain(results)
        if common is not None:
            columns.append(column(f"DG % at S = {common:g} %", _loss_cell(common)))
        title = f"best S % with DG ≤ {budget:g} %"
        columns.append(column(title, _best_cell(budget), in_order=True))
    else:
        columns.append(column("KL(p_T‖p_S) nats", _number_cell("forward_kl", ".3f")))
    costs = [
        column("tokens/s", _number_cell("tokens_per_second", ",.0f")),
        column("memory GiB", _number_cell("peak_memory_bytes", ".2f", unit=2**30)),
        column("trainable parameters", _parameter_cell),
    ]
    return columns + [cost for cost in costs if set(cost.cells) != {_ABSENT}]


def learning_rate(metrics: Metrics) -> str:
    """The learning rate as people type it, like `3e-5`."""
    mantissa, exponent = f"{metrics['learning_rate']:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


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


def _rate_cell(metrics: Metrics) -> Cell:
    return Cell(learning_rate(metrics), metrics["learning_rate"])


def _percent_cell(quantity: str) -> Callable[[Metrics], Cell]:
    return lambda metrics: measured_cell(metrics[quantity], percent(metrics, quantity))


def _ratio_cell(metrics: Metrics) -> Cell:
    return measured_cell(metrics["ratio"], ratio(metrics))


def measured_cell(value: float | None, shown: str) -> Cell:
    """The cell of a value that is shown like `6.50 [5.90, 7.10]`."""
    if value is None:
        return _ABSENT
    text, _, interval = shown.partition(" ")
    return Cell(text, value, interval)


def _loss_cell(common: float) -> Callable[[Metrics], Cell]:
    def cell(metrics: Metrics) -> Cell:
        history = [dict(entry) for entry in evaluations(metrics, _GAIN, _LOSS)]
        lost = degeneralization_at(common, history)
        return _ABSENT if lost is None else Cell(f"{lost:z.2f}", lost)

    return cell


def _best_cell(budget: float) -> Callable[[Metrics], Cell]:
    def cell(metrics: Metrics) -> Cell:
        best = best_within(metrics, budget)
        if best is None:
            return _ABSENT
        return Cell(f"{best[_GAIN]:.2f}", best[_GAIN], f"at {place_of(best)}")

    return cell


def _number_cell(name: str, form: str, unit: int = 1) -> Callable[[Metrics], Cell]:
    def cell(metrics: Metrics) -> Cell:
        value = metrics[name]
        return _ABSENT if value is None else Cell(format(value / unit, form), value)

    return cell


def _parameter_cell(metrics: Metrics) -> Cell:
    """A count like `135 M`, `2.4 M` or `900`."""
    count = metrics["trainable_parameters"]
    for letter, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        scaled = count / size
        if scaled >= 0.9995:  # less shows as a thousand of the next unit
            return Cell(f"{scaled:.{1 if scaled < 9.95 else 0}f} {letter}", count)
    return Cell(str(count), count)


def _with_note(cell: Cell) -> str:
    return f"{cell.text} {cell.note}".strip()
