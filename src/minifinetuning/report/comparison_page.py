"""The page at the end of a comparison: one HTML file with sentence, figures, table and guide."""

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from minifinetuning.report.difference_table import compared_with, difference_columns
from minifinetuning.report.extent import measured_on
from minifinetuning.report.line_styles import LineStyle, line_styles
from minifinetuning.report.method_table import Cell, Column, method_columns
from minifinetuning.report.ranking import (
    Evaluation,
    evaluations,
    has_general_text,
    is_blend,
    ranked,
)
from minifinetuning.report.recommendation import recommendation
from minifinetuning.report.tables import Metrics
from minifinetuning.report.view import View, interval_or_value, view_of

__all__ = ["comparison_page"]

_GAIN, _LOSS = "specialization", "degeneralization"
_TICK_SPACING = 0.05  # of the DG axis; the page leaves out what a small screen has no room for


def comparison_page(results: Mapping[str, Metrics], budget: float, title: str) -> str:
    """Self-contained HTML that asks nothing of any network and works from file://.

    `recommendation`, `method_table` (sortable) and `difference_table` as a page, with S over DG and
    both over the steps drawn from data in the page; `budget` is the largest DG (%) that the reader
    would accept. Where no result has general text there is no DG to draw. What comes from outside
    is escaped. Raises InputError where there is no result.
    """
    import jinja2

    ordered = ranked(results, budget)
    columns, differences = method_columns(ordered, budget), difference_columns(ordered)
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["typeset"] = _typeset
    return environment.from_string(_text("comparison_page.html.jinja")).render(
        title=title,
        recommendation=recommendation(results, budget),
        methods=len({metrics["method"] for metrics in ordered.values()}),
        seeds={len(metrics["seeds"]) for metrics in ordered.values()},
        first=next(iter(ordered.values())),
        columns=columns,
        rows=_rows(columns),
        first_method=compared_with(ordered),
        differences=differences,
        difference_rows=_rows(differences),
        measured_on=measured_on(next(iter(ordered.values()))),
        budget=budget,
        has_general=has_general_text(ordered),
        has_blends=any(map(is_blend, ordered.values())),
        is_self_written=_is_self_written(ordered),
        narrowed=view_of(ordered, budget).loss_width is not None,
        data=_data(ordered, line_styles(results), budget),
        style=_text("comparison_page.css"),
        script=_text("comparison_charts.js") + _text("comparison_page.js"),
    )


def _rows(columns: Sequence[Column]) -> list[tuple[Cell, ...]]:
    return list(zip(*(column.cells for column in columns), strict=True))


def _text(name: str) -> str:
    return files("minifinetuning.report").joinpath(name).read_text(encoding="utf-8")


def _is_self_written(results: Mapping[str, Metrics]) -> bool:
    """Whether the starting model wrote the general text."""
    general = next(iter(results.values()))["data"]["general"]
    return general is not None and general["sources"] == ["self"]


def _typeset(text: str) -> str:
    """Escaped, with `DG ≤ 1 %` on one line and the indices of p_T and p_S lowered."""
    from markupsafe import Markup, escape

    unbroken = re.sub(r" (?=[%=≤])|(?<=[=≤]) ", "\u00a0", str(escape(text)))
    return Markup(re.sub(r"\bp_([ST])\b", r"p<sub>\1</sub>", unbroken))


def _data(
    results: Mapping[str, Metrics], styles: Mapping[str, LineStyle], budget: float
) -> dict[str, Any]:
    """What the page draws from: lines in the order of the table's rows, and the axes."""
    return {
        "lines": [_line(name, metrics, styles[name]) for name, metrics in results.items()],
        "axes": _axes(view_of(results, budget)),
        "budget": budget,
    }


def _axes(view: View) -> dict[str, Any]:
    axes: dict[str, Any] = {"s": {"limits": view.gain}}
    if view.loss is not None:
        ticks = None if view.loss_width is None else view.loss_ticks(_TICK_SPACING)
        axes["dg"] = {"limits": view.loss, "width": view.loss_width, "ticks": ticks}
    return axes


def _line(name: str, metrics: Metrics, style: LineStyle) -> dict[str, Any]:
    has_loss = metrics[_LOSS] is not None
    quantities = (_GAIN, _LOSS) if has_loss else (_GAIN,)
    return {
        "name": name,
        "colour": style.colour,
        "marker": style.marker,
        "dash": style.dash,
        "paleness": style.paleness,
        "points": [_point(entry) for entry in evaluations(metrics, *quantities)],
        "kept": _point(metrics),
        "intervals": {
            "s": interval_or_value(metrics, _GAIN),
            "dg": interval_or_value(metrics, _LOSS) if has_loss else None,
        },
    }


def _point(entry: Evaluation) -> dict[str, float | None]:
    """Step, S and DG under short names, and the coefficient c of a blend."""
    point = {"step": entry["step"], "s": entry[_GAIN], "dg": entry.get(_LOSS)}
    return point | ({"c": entry["coefficient"]} if "coefficient" in entry else {})
