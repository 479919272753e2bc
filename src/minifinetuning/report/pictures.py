"""What was gained against what was lost, drawn into a file; and both over the steps of training."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minifinetuning.errors import InputError
from minifinetuning.files import replacing
from minifinetuning.report.layout import (
    GAIN,
    LOSS,
    Axis,
    Box,
    Labels,
    Line,
    Point,
    axes_of,
    is_crowded,
    lines_of,
)
from minifinetuning.report.line_styles import LineStyle
from minifinetuning.report.recommendation import place_of
from minifinetuning.report.sentences import Metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["save_dynamics", "save_frontier", "saved_figure"]

_GAIN_LABEL = "S: gain on the specialized text, %  (higher is better ↑)"
_LOSS_LABEL = "DG: loss on the general text, %  (lower is better {arrow})"
_NOTE = "A mark is an evaluation, the star the step kept"
_FAINT, _GREY = "#d9d9d9", "#6b6b6b"


@contextmanager
def saved_figure(path: Path, width: float, height: float) -> Iterator["Figure"]:
    """A figure of `width` by `height` inches, in place at `path` once it is whole.

    It never meets pyplot, so it needs no screen and leaves the caller's figures alone.
    Raises InputError where `path` ends neither in .png nor in .svg.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in ("png", "svg"):
        raise InputError(f"{path} is no picture that can be written: end its name in .png or .svg")
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)  # inches
    figure = Figure(figsize=(width, height), layout=layout)
    yield figure
    undated = {"Date": None} if kind == "svg" else None
    with (
        replacing(path) as temporary,
        # Text stays text in an SVG: small, searchable, and the same bytes every time.
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "minifinetuning"}),
    ):
        figure.savefig(temporary, format=kind, dpi=150, metadata=undated)


def save_frontier(
    results: Mapping[str, Metrics], path: Path, *, budget: float | None = None
) -> None:
    """Draw S over DG, one line per result through its evaluations, as .png or .svg.

    A star marks the step kept, with the confidence intervals of its S and DG as a thin cross.
    `budget`, the largest DG (%) that the reader would accept, is a dashed line where it is in view.
    What a run lost long after the step that it kept may leave the picture.
    Raises InputError where a result has no general text, or where `path` has another ending.
    """
    for name, metrics in results.items():
        if metrics[LOSS] is None:
            raise InputError(
                f"{name} was measured without general text, so it has no DG to draw: leave it out, "
                "or evaluate it with general text"
            )
    lines = lines_of(results, LOSS, GAIN)
    scales = axes_of(results, budget)
    with saved_figure(path, *_size(lines, width=7.5, height=5.4)) as figure:
        axes = figure.add_subplot(xlabel=_LOSS_LABEL.format(arrow="←"), ylabel=_GAIN_LABEL)
        _show(axes, "y", scales[GAIN])
        _show(axes, "x", scales[LOSS])
        axes.axvline(0, color=_FAINT, zorder=1)
        for line in lines:
            for bar in line.bars:
                colour = line.style.on_white
                axes.plot(*zip(*bar, strict=True), color=colour, linewidth=0.9, zorder=4)
        level = f"{100 * next(iter(results.values()))['intervals']['level']:g} %"
        note = f"{_NOTE}, the cross its {level} intervals{_narrowed(scales[LOSS], 'to the right')}"
        _draw(axes, "What was gained against what was lost", note, lines)
        _add_legend(figure, lines)
        figure.draw_without_rendering()
        words = _Words(axes, lines)
        words.avoid([(edge, 0.0) for edge in axes.get_xlim()])
        for bar in (bar for line in lines for bar in line.bars):
            words.avoid(bar)
        axes.plot(0, 0, "o", color="black", zorder=7)
        words.add("reference", (0, 0), color="black")
        if budget is not None and scales[LOSS].shows(budget):
            words.add_budget(budget, "x")
        words.add_names(lines)
        words.add_steps(lines)


def save_dynamics(
    results: Mapping[str, Metrics], path: Path, *, budget: float | None = None
) -> None:
    """Draw S (left) and DG (right) over the steps of training, one line per result.

    A star marks the step kept. The panel of DG is left out where no result has general text.
    `budget` (DG, %) is a dashed line where it is in view. `path` ends in .png or .svg;
    InputError is raised for another ending.
    """
    scales = axes_of(results, budget)
    drawn = {name: lines_of(results, "step", name) for name in (GAIN, LOSS) if name in scales}
    with saved_figure(path, *_size(drawn[GAIN], 5.8 * len(drawn), height=4.6)) as figure:
        row = figure.subplots(1, len(drawn), squeeze=False)[0]
        row[0].set(ylabel=_GAIN_LABEL)
        _draw(row[0], "What was gained", _NOTE, drawn[GAIN])
        if LOSS in drawn:
            row[1].set(ylabel=_LOSS_LABEL.format(arrow="↓"))
            note = _NOTE + _narrowed(scales[LOSS], "upwards")
            _draw(row[1], "What was lost", note, drawn[LOSS])
        for axes, quantity in zip(row, drawn, strict=True):
            axes.set(xlabel="step")
            axes.margins(x=0.09)
            _show(axes, "y", scales[quantity])
        _add_legend(figure, drawn[GAIN])
        figure.draw_without_rendering()
        for axes, (quantity, lines) in zip(row, drawn.items(), strict=True):
            words = _Words(axes, lines)
            if quantity == LOSS and budget is not None and scales[LOSS].shows(budget):
                words.add_budget(budget, "y")
            words.add_names(lines)


class _Words:
    """Writes into a picture where there is room; limits and layout of its axes are fixed by now."""

    def __init__(self, axes: "Axes", lines: Sequence[Line]) -> None:
        assert axes.figure is not None
        self._axes = axes
        self._labels = Labels(unit=axes.figure.dpi / 72)
        for line in lines:
            self.avoid(line.points)

    def avoid(self, points: Sequence[Point]) -> None:
        """Keep off the line through these points (data units)."""
        self._labels.avoid_line([(x, y) for x, y in self._axes.transData.transform(points)])

    def add(self, text: str, point: Point, *, optional: bool = False, **style: Any) -> None:
        """Write `text` beside `point` (data units), where `optional` only if it hides nothing."""
        words = self._axes.annotate(
            text, point, (0, 0), textcoords="offset points", zorder=7, **style
        )
        box = words.get_window_extent()
        x, y = self._axes.transData.transform(point)
        placement = self._labels.place((x, y), (box.width, box.height), optional=optional)
        if placement is None:
            words.remove()
        else:
            words.xyann = placement.shift
            words.set(ha=placement.horizontal, va=placement.vertical)

    def add_budget(self, budget: float, direction: str) -> None:
        """A dashed line across the direction, named near the top or the left of the picture."""
        axes = self._axes
        appearance: dict[str, Any] = {"color": _GREY, "linewidth": 1, "dashes": (5, 3), "zorder": 2}
        if direction == "x":
            line = axes.axvline(budget, **appearance)
            ends, place, shift = [(budget, y) for y in axes.get_ylim()], (budget, 0.985), (5, 0)
        else:
            line = axes.axhline(budget, **appearance)
            ends, place, shift = [(x, budget) for x in axes.get_xlim()], (0.015, budget), (0, 14)
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
        self.avoid(ends)
        self._labels.avoid_box(Box(*words.get_window_extent().extents))

    def add_names(self, lines: Sequence[Line]) -> None:
        """Name few lines at their ends.

        They are named from the lowest up: one that must give way moves up, and the order stays.
        """
        if not is_crowded(lines):
            ends = [(self._end(line), line) for line in lines]
            for end, line in sorted(ends, key=lambda item: item[0][1]):
                self.add(line.name, end, color=line.style.on_white, fontweight="bold")

    def add_steps(self, lines: Sequence[Line]) -> None:
        """Small grey step numbers on few lines: at the step kept, the last one and a middle one."""
        for line in lines if not is_crowded(lines) else ():
            evaluations = dict(zip(line.points, line.evaluations, strict=True))
            for point in (line.kept, self._end(line), line.points[len(line.points) // 2]):
                evaluation = evaluations.pop(point, None)
                if evaluation and evaluation["step"]:
                    text = place_of(evaluation)
                    self.add(text, point, optional=True, color=_GREY, fontsize=7.5)

    def _end(self, line: Line) -> Point:
        """The last point, or the one kept where the line has left the picture by then."""
        (left, right), (bottom, top) = self._axes.get_xlim(), self._axes.get_ylim()
        x, y = line.points[-1]
        return (x, y) if left <= x <= right and bottom <= y <= top else line.kept


def _size(lines: Sequence[Line], width: float, height: float) -> tuple[float, float]:
    """`width` and `height` (inches) of the axes with what a legend needs beside them."""
    if not is_crowded(lines):
        return width, height
    longest = max(len(line.name) for line in lines)
    return width + 0.9 + 0.075 * longest, max(height, 0.6 + 0.22 * len(lines))


def _show(axes: "Axes", direction: str, axis: Axis) -> None:
    """Set the limits of the x or y axis, and narrow it where it is to be."""
    from matplotlib.scale import AsinhScale

    if axis.width is not None:
        axes.set(**{f"{direction}scale": AsinhScale(None, linear_width=axis.width)})
        ticks = axis.ticks(spacing=0.07)
        labels = [f"{tick:g}" for tick in ticks]
        axes.set(**{f"{direction}ticks": ticks, f"{direction}ticklabels": labels})
        axes.minorticks_off()
    axes.set(**{f"{direction}lim": (axis.low, axis.high)})


def _narrowed(axis: Axis, where: str) -> str:
    return "" if axis.width is None else f"; the scale narrows {where}"


def _draw(axes: "Axes", title: str, note: str, lines: Sequence[Line]) -> None:
    """Each line through its evaluations, with a star at the step kept; title, note and grid."""
    crowded = is_crowded(lines)
    for line in lines:
        appearance = _appearance(line.style) | ({"linewidth": 1.4} if crowded else {})
        axes.plot(*zip(*line.points, strict=True), **appearance, zorder=3)
        axes.plot(
            *line.kept,
            "*",
            color=line.style.on_white,
            markersize=12 if crowded else 15,
            markeredgecolor="white",
            zorder=6,
        )
    axes.set_title(title, loc="left", fontweight="bold", pad=24)
    axes.annotate(note, (0, 1), (0, 8), "axes fraction", "offset points", color=_GREY, fontsize=8.5)
    axes.axhline(0, color=_FAINT, zorder=1)
    axes.grid(color="#efefef", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _add_legend(figure: "Figure", lines: Sequence[Line]) -> None:
    """Name many lines beside the axes, the largest S (upward) first; few are named at their ends.

    It comes before the layout is fixed.
    """
    from matplotlib.lines import Line2D

    if is_crowded(lines):
        falling = sorted(lines, key=lambda line: line.kept[1], reverse=True)
        keys = [Line2D([], [], label=line.name, **_appearance(line.style)) for line in falling]
        appearance = {"frameon": False, "fontsize": 9, "handlelength": 3.6}
        figure.legend(handles=keys, loc="outside right center", **appearance)


def _appearance(style: LineStyle) -> dict[str, Any]:
    """What `Axes.plot` wants to know."""
    return {
        "color": style.on_white,
        "linestyle": (0, style.dash) if style.dash else "solid",
        "linewidth": 1.8,
        "marker": style.marker,
        "markersize": 3.5 if style.marker == "o" else 4,
    }
