"""What was gained against what was lost, drawn; and both over the steps of training."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, cycle
from pathlib import Path
from typing import TYPE_CHECKING

from minifinetuning.errors import InputError
from minifinetuning.files import replacing
from minifinetuning.report.labels import Labels
from minifinetuning.report.tables import Metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["save_dynamics", "save_frontier"]

_GAIN, _LOSS = "specialization", "degeneralization"
_GAIN_LABEL = "S: gain on the specialized text, %  (higher is better ↑)"
_LOSS_LABEL = "DG: loss on the general text, %  (lower is better {arrow})"
_NOTE = "A dot is an evaluation, the star the step kept"

# Okabe and Ito's colours, which readers with any colour vision can tell apart.
_BLUE, _ORANGE = "#0072B2", "#D55E00"
_FIXED_COLOURS = {"mft": _BLUE, "minifinetuning": _BLUE, "ft": _ORANGE, "finetuning": _ORANGE}
_OTHER_COLOURS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_FAINT, _GREY = "#d9d9d9", "#6b6b6b"

Point = tuple[float, float]


@dataclass(frozen=True)
class _Line:
    """One result in a picture: its evaluations in order, the one kept, and its step numbers."""

    name: str
    colour: str
    points: list[Point]
    kept: Point
    steps: list[int]


def save_frontier(results: Mapping[str, Metrics], path: Path) -> None:
    """Draw S over DG, one line per method through its evaluations, as .png or .svg.

    A star marks the step kept, with the confidence intervals of its S and DG as a thin cross.
    Raises InputError where a result has no general text, or where `path` has another ending.
    """
    for name, metrics in results.items():
        if metrics[_LOSS] is None:
            raise InputError(
                f"{name} was measured without general text, so it has no DG to draw: leave it out, "
                "or evaluate it with general text"
            )
    with _saved_figure(path, width=7.5, height=5.4) as figure:
        axes = figure.add_subplot(xlabel=_LOSS_LABEL.format(arrow="←"), ylabel=_GAIN_LABEL)
        axes.axvline(0, color=_FAINT, zorder=1)
        lines = _lines(results, _LOSS, _GAIN)
        crosses = [_cross(metrics) for metrics in results.values()]
        for line, cross in zip(lines, crosses, strict=True):
            for bar in cross:
                axes.plot(*zip(*bar, strict=True), color=line.colour, linewidth=0.9, zorder=4)
        level = next(iter(results.values()))["intervals"]["level"]
        note = f"{_NOTE}, the cross its {100 * level:g} % intervals"
        labels = _finish(figure, axes, "What was gained against what was lost", note, lines)
        zero_line = [(edge, 0.0) for edge in axes.get_xlim()]
        for straight in (zero_line, *chain(*crosses)):
            labels.avoid(straight)
        axes.plot(0, 0, "o", color="black", zorder=7)
        labels.add("reference", (0, 0), color="black")
        _label_lines(labels, lines)
        for line in lines:
            _label_steps(labels, line)


def save_dynamics(results: Mapping[str, Metrics], path: Path) -> None:
    """Draw S (left) and DG (right) over the steps of training, one line per method.

    A star marks the step kept. The panel of DG is left out where no result has general text.
    `path` ends in .png or .svg; InputError is raised for another ending.
    """
    panels = [(_GAIN, _GAIN_LABEL, "What was gained")]
    if any(metrics[_LOSS] is not None for metrics in results.values()):
        panels.append((_LOSS, _LOSS_LABEL.format(arrow="↓"), "What was lost"))
    with _saved_figure(path, width=5.8 * len(panels), height=4.6) as figure:
        row = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (quantity, label, title) in zip(row, panels, strict=True):
            axes.set(xlabel="step", ylabel=label)
            lines = _lines(results, "step", quantity)
            labels = _finish(figure, axes, title, _NOTE, lines)
            _label_lines(labels, lines)


def _lines(results: Mapping[str, Metrics], across: str, upward: str) -> list[_Line]:
    """One line per result that has the quantity `upward`, over the quantity `across`."""
    if not results:
        raise InputError("there is no result to draw: name at least one metrics.json")
    lines = []
    for (name, metrics), colour in zip(results.items(), _colours(results), strict=True):
        if metrics[upward] is None:
            continue
        history = [entry for entry in metrics["history"] if entry.get(upward) is not None]
        kept = (metrics[across], metrics[upward])
        points = [(entry[across], entry[upward]) for entry in history] or [kept]
        steps = [entry["step"] for entry in history] or [metrics["step"]]
        lines.append(_Line(name, colour, points, kept, steps))
    return lines


def _colours(results: Mapping[str, Metrics]) -> list[str]:
    """One colour a result: the first FT is orange and the first MFT blue in every picture."""
    others = cycle(_OTHER_COLOURS)
    colours: list[str] = []
    for name, metrics in results.items():
        objective = str(metrics.get("method", name)).rpartition("+")[2].lower()
        fixed = _FIXED_COLOURS.get(objective)
        colours.append(fixed if fixed and fixed not in colours else next(others))
    return colours


def _cross(metrics: Metrics) -> tuple[list[Point], list[Point]]:
    """The confidence intervals of DG and of S at the step kept, as two bars."""
    x, y = metrics[_LOSS], metrics[_GAIN]
    left, right = _bounds(metrics, _LOSS)
    bottom, top = _bounds(metrics, _GAIN)
    return [(left, y), (right, y)], [(x, bottom), (x, top)]


def _bounds(metrics: Metrics, quantity: str) -> list[float]:
    """The interval; the value itself stands in for a bound that is not finite."""
    interval = metrics["intervals"][quantity] or (None, None)
    return [metrics[quantity] if bound is None else bound for bound in interval]


def _label_lines(labels: Labels, lines: Sequence[_Line]) -> None:
    """Names at the lines' ends, from the lowest up: one that must give way moves up, in order."""
    for line in sorted(lines, key=lambda line: line.points[-1][1]):
        labels.add(line.name, line.points[-1], color=line.colour, fontweight="bold")


def _label_steps(labels: Labels, line: _Line) -> None:
    """Small grey step numbers: the one kept, the last and a middle one, where there is room."""
    numbers = dict(zip(line.points, line.steps, strict=True))
    for point in (line.kept, line.points[-1], line.points[len(line.points) // 2]):
        if step := numbers.pop(point, 0):
            labels.add(f"step {step}", point, optional=True, color=_GREY, fontsize=7.5)


def _finish(
    figure: "Figure", axes: "Axes", title: str, note: str, lines: Sequence[_Line]
) -> Labels:
    """Draw the lines and fix the layout; what comes back writes words into it."""
    for line in lines:
        x, y = zip(*line.points, strict=True)
        axes.plot(x, y, color=line.colour, linewidth=1.8, marker="o", markersize=3.5, zorder=3)
        axes.plot(
            *line.kept, "*", color=line.colour, markersize=15, markeredgecolor="white", zorder=6
        )
    axes.set_title(title, loc="left", fontweight="bold", pad=24)
    axes.annotate(note, (0, 1), (0, 8), "axes fraction", "offset points", color=_GREY, fontsize=8.5)
    axes.axhline(0, color=_FAINT, zorder=1)
    axes.grid(color="#efefef", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.09, y=0.07)
    figure.draw_without_rendering()
    labels = Labels(axes)
    for line in lines:
        labels.avoid(line.points)
    return labels


@contextmanager
def _saved_figure(path: Path, width: float, height: float) -> Iterator["Figure"]:
    """A figure of `width` by `height` inches, in place at `path` once it is whole.

    It never meets pyplot, so it needs no screen and leaves the caller's figures alone.
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
