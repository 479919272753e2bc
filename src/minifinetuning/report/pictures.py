"""What was gained against what was lost, drawn; and both over the steps of training."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minifinetuning.errors import InputError
from minifinetuning.report.figures import saved_figure
from minifinetuning.report.labels import Labels
from minifinetuning.report.lines import (
    Line,
    Point,
    add_legend,
    draw_lines,
    figure_size,
    label_lines,
    label_steps,
    lines_of,
)
from minifinetuning.report.tables import Metrics
from minifinetuning.report.view import View, interval_or_value, view_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["save_dynamics", "save_frontier"]

_GAIN, _LOSS = "specialization", "degeneralization"
_GAIN_LABEL = "S: gain on the specialized text, %  (higher is better ↑)"
_LOSS_LABEL = "DG: loss on the general text, %  (lower is better {arrow})"
_NOTE = "A mark is an evaluation, the star the step kept"
_FAINT, _GREY = "#d9d9d9", "#6b6b6b"


def save_frontier(
    results: Mapping[str, Metrics], path: Path, *, budget: float | None = None
) -> None:
    """Draw S over DG, one line per result through its evaluations, as .png or .svg.

    A star marks the step kept, with the confidence intervals of its S and DG as a thin cross.
    `budget`, the largest DG (%) that the reader would accept, is a dashed line where it is in view.
    What a run lost long after the step that it kept may leave the picture.
    Raises InputError where a result has no general text, or where `path` has another ending.
    """
    _require_general_text(results)
    lines = lines_of(results, _LOSS, _GAIN)
    with saved_figure(path, *figure_size(lines, width=7.5, height=5.4)) as figure:
        axes = figure.add_subplot(xlabel=_LOSS_LABEL.format(arrow="←"), ylabel=_GAIN_LABEL)
        view = view_of(results, budget)
        _show(axes, "y", view, _GAIN)
        _show(axes, "x", view, _LOSS)
        axes.axvline(0, color=_FAINT, zorder=1)
        crosses = [_cross(metrics) for metrics in results.values()]
        for line, bars in zip(lines, crosses, strict=True):
            for bar in bars:
                colour = line.style.on_white
                axes.plot(*zip(*bar, strict=True), color=colour, linewidth=0.9, zorder=4)
        level = f"{100 * next(iter(results.values()))['intervals']['level']:g} %"
        note = f"{_NOTE}, the cross its {level} intervals{_narrowed(view, 'to the right')}"
        _draw(axes, "What was gained against what was lost", note, lines)
        add_legend(figure, lines)
        figure.draw_without_rendering()
        zero_line = [(edge, 0.0) for edge in axes.get_xlim()]
        labels = _labels(axes, lines, zero_line, *chain(*crosses))
        axes.plot(0, 0, "o", color="black", zorder=7)
        labels.add("reference", (0, 0), color="black")
        if budget is not None:
            _draw_budget(axes, labels, budget, "x")
        label_lines(axes, labels, lines)
        label_steps(axes, labels, lines)


def save_dynamics(
    results: Mapping[str, Metrics], path: Path, *, budget: float | None = None
) -> None:
    """Draw S (left) and DG (right) over the steps of training, one line per result.

    A star marks the step kept. The panel of DG is left out where no result has general text.
    `budget` (DG, %) is a dashed line where it is in view. `path` ends in .png or .svg;
    InputError is raised for another ending.
    """
    panels = [(_GAIN, _GAIN_LABEL, "What was gained")]
    if any(metrics[_LOSS] is not None for metrics in results.values()):
        panels.append((_LOSS, _LOSS_LABEL.format(arrow="↓"), "What was lost"))
    drawn = [lines_of(results, "step", quantity) for quantity, _, _ in panels]
    view = view_of(results, budget)
    size = figure_size(drawn[0], width=5.8 * len(panels), height=4.6)
    with saved_figure(path, *size) as figure:
        row = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, lines, (quantity, label, title) in zip(row, drawn, panels, strict=True):
            axes.set(xlabel="step", ylabel=label)
            _show(axes, "y", view, quantity)
            narrowed = _narrowed(view, "upwards") if quantity == _LOSS else ""
            _draw(axes, title, f"{_NOTE}{narrowed}", lines)
            axes.margins(x=0.09)
        add_legend(figure, drawn[0])
        figure.draw_without_rendering()
        for axes, lines, (quantity, _, _) in zip(row, drawn, panels, strict=True):
            labels = _labels(axes, lines)
            if quantity == _LOSS and budget is not None:
                _draw_budget(axes, labels, budget, "y")
            label_lines(axes, labels, lines)


def _require_general_text(results: Mapping[str, Metrics]) -> None:
    for name, metrics in results.items():
        if metrics[_LOSS] is None:
            raise InputError(
                f"{name} was measured without general text, so it has no DG to draw: leave it out, "
                "or evaluate it with general text"
            )


def _cross(metrics: Metrics) -> tuple[list[Point], list[Point]]:
    """The confidence intervals of DG and of S at the step kept, as two bars."""
    x, y = metrics[_LOSS], metrics[_GAIN]
    left, right = interval_or_value(metrics, _LOSS)
    bottom, top = interval_or_value(metrics, _GAIN)
    return [(left, y), (right, y)], [(x, bottom), (x, top)]


def _show(axes: "Axes", direction: str, view: View, quantity: str) -> None:
    """Set the limits of the x or y axis, and narrow that of DG where the view says so."""
    from matplotlib.scale import AsinhScale

    if quantity == _LOSS and view.loss_width is not None:
        axes.set(**{f"{direction}scale": AsinhScale(None, linear_width=view.loss_width)})
        ticks = view.loss_ticks(spacing=0.07)
        labels = [f"{tick:g}" for tick in ticks]
        axes.set(**{f"{direction}ticks": ticks, f"{direction}ticklabels": labels})
        axes.minorticks_off()
    axes.set(**{f"{direction}lim": view.gain if quantity == _GAIN else view.loss})


def _narrowed(view: View, where: str) -> str:
    return "" if view.loss_width is None else f"; the scale narrows {where}"


def _draw(axes: "Axes", title: str, note: str, lines: Sequence[Line]) -> None:
    draw_lines(axes, lines)
    axes.set_title(title, loc="left", fontweight="bold", pad=24)
    axes.annotate(note, (0, 1), (0, 8), "axes fraction", "offset points", color=_GREY, fontsize=8.5)
    axes.axhline(0, color=_FAINT, zorder=1)
    axes.grid(color="#efefef", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _labels(axes: "Axes", lines: Sequence[Line], *others: Sequence[Point]) -> Labels:
    """Words to come, which keep off the lines; the layout is fixed by now."""
    labels = Labels(axes)
    for points in (*(line.points for line in lines), *others):
        labels.avoid(points)
    return labels


def _draw_budget(axes: "Axes", labels: Labels, budget: float, direction: str) -> None:
    """A dashed line where it is in view, with its name near the top or the left of the picture."""
    appearance: dict[str, Any] = {"color": _GREY, "linewidth": 1, "dashes": (5, 3), "zorder": 2}
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    if direction == "x" and left < budget < right:
        line = axes.axvline(budget, **appearance)
        ends, place, shift = [(budget, bottom), (budget, top)], (budget, 0.985), (5, 0)
    elif direction == "y" and bottom < budget < top:
        line = axes.axhline(budget, **appearance)
        ends, place, shift = [(left, budget), (right, budget)], (0.015, budget), (0, 14)
    else:
        return
    words = axes.annotate(
        f"budget, DG ≤ {budget:g} %",
        place,
        shift,
        xycoords=line.get_transform(),
        textcoords="offset points",
        va="top",
        color=_GREY,
        fontsize=8.5,
        zorder=5,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8},
    )
    box = words.get_window_extent().transformed(axes.transData.inverted())
    labels.avoid(ends)
    labels.avoid([(box.x0, (box.y0 + box.y1) / 2), (box.x1, (box.y0 + box.y1) / 2)])
