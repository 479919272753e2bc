"""Methods held against one of them: what they gained and lost more, on the same resamples."""

from collections.abc import Mapping

from minifinetuning.report.method_table import Cell, Column, columns_table, measured_cell
from minifinetuning.report.ranking import has_general_text
from minifinetuning.report.tables import Metrics, percent, ratio

__all__ = ["compared_with", "difference_columns", "difference_table"]


def compared_with(results: Mapping[str, Metrics]) -> str | None:
    """The name of the result that the others are held against; None where there are no others."""
    known = (metrics.get("difference") for metrics in results.values())
    return next((str(difference["from"]) for difference in known if difference), None)


def difference_table(results: Mapping[str, Metrics]) -> str | None:
    """One row for each other result, as Markdown, in the order of `results`; None without others.

    The columns are S and DG (percent points) and DG/S, each less that of the first result that was
    named, with its interval.
    """
    columns = difference_columns(results)
    return columns_table(columns) if columns else None


def difference_columns(results: Mapping[str, Metrics]) -> list[Column]:
    """The columns of `difference_table`; none where there is nothing to compare."""
    first = compared_with(results)
    others = {name: metrics for name, metrics in results.items() if metrics.get("difference")}
    if first is None:
        return []
    columns = [
        Column(f"compared with {first}", [Cell(name, name) for name in others]),
        Column("S, points", [_cell(metrics, "specialization") for metrics in others.values()]),
    ]
    if has_general_text(others):
        columns += [
            Column(
                "DG, points", [_cell(metrics, "degeneralization") for metrics in others.values()]
            ),
            Column("DG/S", [_cell(metrics, "ratio") for metrics in others.values()]),
        ]
    return columns


def _cell(metrics: Metrics, quantity: str) -> Cell:
    difference = metrics["difference"]
    shown = ratio(difference) if quantity == "ratio" else percent(difference, quantity)
    cell = measured_cell(difference[quantity], shown)
    return cell if cell.text.startswith("-") else cell._replace(text=f"+{cell.text}")
