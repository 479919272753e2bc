"""Results as lines in a picture: drawn, and named at their ends or, where many, in a legend."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from minifinetuning.errors import InputError
from minifinetuning.report.labels import Labels
from minifinetuning.report.line_styles import LineStyle, line_styles
from minifinetuning.report.ranking import evaluations, is_blend, place_of
from minifinetuning.report.tables import Metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Line",
    "Point",
    "add_legend",
    "draw_lines",
    "figure_size",
    "label_lines",
    "label_steps",
    "lines_of",
]

Point = tuple[float, float]

_NAMED_AT_ENDS = 4  # more names at the lines' ends would hide lines, and each other
_GREY = "#6b6b6b"


@dataclass(frozen=True)
class Line:
    """One result in a picture: its evaluations in order, the one kept, and what they are called."""

    name: str
    style: LineStyle
    points: list[Point]
    kept: Point
    places: list[str]


def lines_of(results: Mapping[str, Metrics], across: str, upward: str) -> list[Line]:
    """One line per result that has the quantity `upward`, over the quantity `across`.

    Blends, which all lie at one step, are left out where that is `across`. The start has no name.
    Raises InputError where there is no result.
    """
    if not results:
        raise InputError("there is no result to draw: name at least one metrics.json")
    lines = []
    for name, style in line_styles(results).items():
        metrics = results[name]
        if metrics[upward] is None or (across == "step" and is_blend(metrics)):
            continue
        entries = evaluations(metrics, across, upward)
        points = [(entry[across], entry[upward]) for entry in entries]
        kept = (metrics[across], metrics[upward])
        places = [place_of(entry) if entry["step"] else "" for entry in entries]
        lines.append(Line(name, style, points, kept, places))
    return lines


def figure_size(lines: Sequence[Line], width: float, height: float) -> tuple[float, float]:
    """`width` and `height` (inches) of the axes with what a legend needs beside them."""
    if len(lines) <= _NAMED_AT_ENDS:
        return width, height
    longest = max(len(line.name) for line in lines)
    return width + 0.9 + 0.075 * longest, max(height, 0.6 + 0.22 * len(lines))


def draw_lines(axes: "Axes", lines: Sequence[Line]) -> None:
    """Draw each line through its evaluations, and a star at the step kept."""
    few = len(lines) <= _NAMED_AT_ENDS
    for line in lines:
        appearance = _appearance(line.style) | ({} if few else {"linewidth": 1.4})
        axes.plot(*zip(*line.points, strict=True), **appearance, zorder=3)
        axes.plot(
            *line.kept,
            "*",
            color=line.style.on_white,
            markersize=15 if few else 12,
            markeredgecolor="white",
            zorder=6,
        )


def add_legend(figure: "Figure", lines: Sequence[Line]) -> None:
    """Name many lines beside the axes, the largest S (upward) first; few are named at their ends.

    It comes before the layout is fixed.
    """
    from matplotlib.lines import Line2D

    if len(lines) > _NAMED_AT_ENDS:
        falling = sorted(lines, key=lambda line: line.kept[1], reverse=True)
        keys = [Line2D([], [], label=line.name, **_appearance(line.style)) for line in falling]
        figure.legend(
            handles=keys,
            loc="outside right center",
            frameon=False,
            fontsize=9,
            handlelength=3.6,
        )


def label_lines(axes: "Axes", labels: Labels, lines: Sequence[Line]) -> None:
    """Name few lines at their ends.

    They are named from the lowest up: one that must give way moves up, and the order stays.
    """
    if len(lines) <= _NAMED_AT_ENDS:
        ends = [(_end(axes, line), line) for line in lines]
        for end, line in sorted(ends, key=lambda item: item[0][1]):
            labels.add(line.name, end, color=line.style.on_white, fontweight="bold")


def label_steps(axes: "Axes", labels: Labels, lines: Sequence[Line]) -> None:
    """Small grey step numbers on few lines, where there is room.

    They stand at the step kept, at the last one and at a middle one.
    """
    for line in lines if len(lines) <= _NAMED_AT_ENDS else ():
        places = dict(zip(line.points, line.places, strict=True))
        for point in (line.kept, _end(axes, line), line.points[len(line.points) // 2]):
            if place := places.pop(point, ""):
                labels.add(place, point, optional=True, color=_GREY, fontsize=7.5)


def _end(axes: "Axes", line: Line) -> Point:
    """The last point, or the one kept where the line has left the picture by then."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    x, y = line.points[-1]
    return (x, y) if left <= x <= right and bottom <= y <= top else line.kept


def _appearance(style: LineStyle) -> dict[str, Any]:
    """What `Axes.plot` wants to know."""
    return {
        "color": style.on_white,
        "linestyle": (0, style.dash) if style.dash else "solid",
        "linewidth": 1.8,
        "marker": style.marker,
        "markersize": 3.5 if style.marker == "o" else 4,
    }
