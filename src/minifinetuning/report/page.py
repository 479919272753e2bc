"""The page at the end of a comparison: one HTML file with sentence, figures, table and guide."""

import re
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

from minifinetuning.report.cards import template
from minifinetuning.report.charts import charts_of
from minifinetuning.report.layout import is_crowded
from minifinetuning.report.line_styles import line_styles
from minifinetuning.report.recommendation import (
    has_general_text,
    is_blend,
    ranked,
    recommendation,
)
from minifinetuning.report.sentences import Metrics, is_self_written, measured_on
from minifinetuning.report.tables import (
    Cell,
    Column,
    compared_with,
    difference_columns,
    method_columns,
)

__all__ = ["comparison_page"]


def comparison_page(results: Mapping[str, Metrics], budget: float, title: str) -> str:
    """Self-contained HTML that asks nothing of any network and works from file://.

    `recommendation`, `method_table` (sortable) and `difference_table` as a page, with S over DG and
    both over the steps; `budget` is the largest DG (%) that the reader would accept. Where no
    result has general text there is no DG to draw. What comes from outside is escaped.
    Raises InputError where there is no result.
    """
    ordered = ranked(results, budget)
    first = next(iter(ordered.values()))
    columns, differences = method_columns(ordered, budget), difference_columns(ordered)
    return template("page.html.jinja", autoescape=True).render(
        title=title,
        recommendation=recommendation(results, budget),
        methods=len({metrics["method"] for metrics in ordered.values()}),
        seeds={len(metrics["seeds"]) for metrics in ordered.values()},
        first=first,
        columns=columns,
        rows=_rows(columns),
        first_method=compared_with(ordered),
        differences=differences,
        difference_rows=_rows(differences),
        measured_on=measured_on(first),
        budget=budget,
        has_general=has_general_text(ordered),
        has_blends=any(map(is_blend, ordered.values())),
        is_self_written=is_self_written(first),
        is_crowded=is_crowded(ordered),
        names=list(ordered),
        styles=line_styles(results),
        charts=charts_of(results, list(ordered), budget),
        typeset=_typeset,
    )


def _rows(columns: Sequence[Column]) -> list[tuple[Cell, ...]]:
    return list(zip(*(column.cells for column in columns), strict=True))


def _typeset(text: str) -> Markup:
    """Escaped, with `DG ≤ 1 %` on one line and the indices of p_T and p_S lowered."""
    unbroken = re.sub(r" (?=[%=≤])|(?<=[=≤]) ", "\u00a0", str(escape(text)))
    return Markup(re.sub(r"\bp_([ST])\b", r"p<sub>\1</sub>", unbroken))
