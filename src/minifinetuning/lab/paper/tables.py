"""The tables of the paper, ours beside what was published; and the report of tables and figures."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from minifinetuning.files import write_atomically
from minifinetuning.lab.paper.cells import PaperCell, Published, published_values, slug
from minifinetuning.lab.paper.figures import models_drawn, save_paper_figure
from minifinetuning.lab.paper.plan import stand_in
from minifinetuning.lab.paper.reproduction import Reproduction
from minifinetuning.report.sentences import measured_on
from minifinetuning.report.tables import markdown_table

__all__ = ["table_reports", "write_paper_report"]

_QUANTITIES = (("S %", "specialization", 1), ("DG %", "degeneralization", 1), ("DG/S", "ratio", 2))


def table_reports(
    rows: Sequence[Published], results: Mapping[PaperCell, Mapping[str, Any]]
) -> dict[int, str]:
    """For each table number its Markdown: ours | published | difference of S, DG (%) and DG/S.

    Values are rounded as the paper rounds them, after the difference is taken; a cell that is not
    done yet is empty.
    """
    reports = {}
    for number, group in groupby(rows, key=lambda row: row.table):
        of_table = [*group]
        done = sum(row.cell in results for row in of_table)
        heading = f"Table {number}: {done} of {len(of_table)} rows are done."
        text = [heading + _stand_in_note(number, of_table), "", _table(of_table, results)]
        reports[number] = "\n".join([*text, *_extents(of_table, results)])
    return reports


def _extents(
    rows: Sequence[Published], results: Mapping[PaperCell, Mapping[str, Any]]
) -> list[str]:
    """Of how much text the figures of each dataset are, a line for each answer that there is."""
    extents = {
        f"{row.cell.dataset}: {measured_on(results[row.cell])}"
        for row in rows
        if row.cell in results
    }
    return ["", *sorted(extents)] if extents else []


def _stand_in_note(number: int, rows: Sequence[Published]) -> str:
    """Whose values are beside those of a model or dataset that the table does not have."""
    published = [row for row in published_values() if row.table == number]
    first, own = stand_in(published), rows[0].cell
    lacking, beside = [], []
    if own.model not in {row.cell.model for row in published}:
        lacking.append(own.model)
        beside.append(first.model)
    if own.dataset not in {row.cell.dataset for row in published}:
        lacking.append(own.dataset)
        beside.append(first.dataset)
    if not lacking:
        return ""
    return (
        f" The paper has no {' and no '.join(lacking)} here: beside it stand the values of "
        f"{' on '.join(beside)}, for orientation, not as what should come out."
    )


def _table(rows: Sequence[Published], results: Mapping[PaperCell, Mapping[str, Any]]) -> str:
    header = ["model", "dataset", ""]
    for quantity, _, _ in _QUANTITIES:
        header += [f"{quantity} ours", "published", "difference"]
    lines = [header]
    for row in rows:
        line = [row.cell.model, row.cell.dataset, row.label]
        result = results.get(row.cell, {})
        for _, name, digits in _QUANTITIES:
            ours, published = result.get(name), getattr(row, name)
            difference = None if None in (ours, published) else ours - published
            line += [_number(ours, digits), _number(published, digits)]
            line += [_number(difference, digits, sign="+")]
        lines.append(line)
    return markdown_table(lines, words=3)


def _number(value: float | None, digits: int, sign: str = "") -> str:
    return "" if value is None else f"{round(value, digits) + 0.0:{sign}.{digits}f}"


def write_paper_report(
    reproduction: Reproduction, results: Mapping[PaperCell, Mapping[str, Any]]
) -> str:
    """Write table-N.md and figure-N-MODEL.png into `OUT/PROTOCOL`; returns them for a terminal."""
    folder = reproduction.report_folder
    parts = []
    for number, text in table_reports(reproduction.plan.rows, results).items():
        write_atomically(folder / f"table-{number}.md", text)
        parts.append(text)
    for figure, models in reproduction.plan.figures:
        for model in models_drawn(models, figure, results):
            path = folder / f"figure-{figure.number}-{slug(model)}.png"
            save_paper_figure(figure, model, results, reproduction.protocol, path)
            parts.append(f"figure {figure.number}: {path}")
    return "\n\n".join(parts)
