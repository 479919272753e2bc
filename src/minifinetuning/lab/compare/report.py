"""What a person reads of a comparison: tables, pictures and a page, all from the same rows."""

from collections.abc import Mapping
from pathlib import Path

from minifinetuning.files import write_atomically
from minifinetuning.report import (
    Metrics,
    comparison_page,
    difference_table,
    measured_on,
    method_table,
    recommendation,
    save_dynamics,
    save_frontier,
)
from minifinetuning.report.ranking import ranked

__all__ = ["comparison_summary", "write_report"]

_ABOUT_DIFFERENCES = (
    "Both were taken on the same resamples of the same documents: where an interval holds no zero, "
    "the choice of the validation text does not explain the difference."
)


def comparison_summary(rows: Mapping[str, Metrics], budget: float) -> str:
    """The table, what is recommended, and what DG was measured on where nobody wrote that text.

    Where there are several results, all are held against the first one that was named.
    """
    parts = [
        method_table(rows, budget),
        measured_on(next(iter(rows.values()))),
        recommendation(rows, budget),
    ]
    differences = difference_table(ranked(rows, budget))
    if differences:
        parts += [differences, _ABOUT_DIFFERENCES]
    general = next(iter(rows.values()))["data"]["general"]
    if general is not None and general["sources"] == ["self"]:
        parts.append(
            "DG was measured on text that the starting model wrote itself: it estimates "
            "100 · (exp(KL(p_T‖p_S)) - 1) under the model's own distribution, not what happened to "
            "text that people wrote."
        )
    return "\n\n".join(parts)


def write_report(rows: Mapping[str, Metrics], budget: float, folder: Path) -> None:
    """Write results.md, comparison.html, frontier and dynamics (.png, .svg) into `folder`."""
    write_atomically(folder / "results.md", comparison_summary(rows, budget))
    has_general = all(metrics["degeneralization"] is not None for metrics in rows.values())
    for kind in ("png", "svg"):
        if has_general:
            save_frontier(rows, folder / f"frontier.{kind}", budget=budget)
        save_dynamics(rows, folder / f"dynamics.{kind}", budget=budget)
    write_atomically(folder / "comparison.html", comparison_page(rows, budget, _title(rows)))


def _title(rows: Mapping[str, Metrics]) -> str:
    """The model and the specialized text, by the last parts of their paths."""
    first = next(iter(rows.values()))
    sources = ", ".join(Path(source).name for source in first["data"]["specialized"]["sources"])
    return f"{Path(str(first['configuration']['model'])).name} on {sources}"
