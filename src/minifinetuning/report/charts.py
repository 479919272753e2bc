"""The charts of a page: where ticks, lines, marks and names stand, for a template to draw."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from minifinetuning.report.layout import (
    GAIN,
    LOSS,
    Axis,
    Box,
    Labels,
    Line,
    Placement,
    Point,
    axes_of,
    is_crowded,
    lines_of,
)
from minifinetuning.report.recommendation import Evaluation, place_of
from minifinetuning.report.sentences import Metrics

__all__ = ["Chart", "charts_of"]

# A chart is as wide as its reader's screen, so all in it stands at percents of its width and
# height. Ticks and names need room in pixels: they are laid out once for each of these sizes.
_SIZES = {"wide": (700.0, 346.0), "narrow": (290.0, 226.0)}
_TICK_WIDTH, _TICK_HEIGHT = 44, 28
_LETTER_WIDTH, _LETTER_HEIGHT = 6.2, 13.0  # about, as no reader's letters are known here
_STAR = 6  # from its middle to its edge


@dataclass(frozen=True)
class Chart:
    """One quantity over another: its lines, both axes, and the largest DG (%) that is accepted."""

    across: str
    upward: str
    x: Axis
    y: Axis
    lines: Sequence[Line]
    budget: float

    @property
    def is_frontier(self) -> bool:
        """Whether it is S over DG."""
        return self.across == LOSS

    def spot(self, point: Point) -> Point:
        """Percents of the chart's width, from its left, and of its height, from its top."""
        x, y = point
        return round(100 * self.x.place(x), 2), round(100 - 100 * self.y.place(y), 2)

    def path(self, line: Line) -> str:
        """The line through all its evaluations, as SVG has it."""
        return "M" + "L".join(f"{left} {top}" for left, top in map(self.spot, line.points))

    def marks(self, line: Line) -> list[tuple[Point, str]]:
        """Each evaluation in view and what to say of it; the one kept has its star."""
        return [
            (point, _told(evaluation))
            for point, evaluation in zip(line.points, line.evaluations, strict=True)
            if self.x.shows(point[0]) and self.y.shows(point[1]) and point != line.kept
        ]

    def about_star(self, line: Line) -> str:
        """What to say of the step kept."""
        return _told(line.metrics, " (kept)")

    def ticks(self, size: str) -> tuple[list[float], list[float]]:
        """The ticks across and upward that have room at a size."""
        width, height = _SIZES[size]
        return self.x.ticks(_TICK_WIDTH / width), self.y.ticks(_TICK_HEIGHT / height)

    def names(self, size: str) -> dict[str, Placement]:
        """On which side of its star each line's name hides least at a size.

        Where many lines are drawn, a name that would hide anything is left out: the table has all.
        """
        crowded = is_crowded(self.lines)
        if crowded and not self.is_frontier:
            return {}
        width, height = _SIZES[size]
        labels = Labels(unit=1, frame=Box(0, -math.inf, width + 14, height + 8))

        def pixel(point: Point) -> Point:
            return width * self.x.place(point[0]), height * self.y.place(point[1])

        def extent(words: str) -> Point:
            return _LETTER_WIDTH * len(words), _LETTER_HEIGHT

        for line in self.lines:
            x, y = pixel(line.kept)
            labels.avoid_box(Box(x - _STAR, y - _STAR, x + _STAR, y + _STAR))
            for drawn in [line.points, *([] if crowded else line.bars)]:
                labels.avoid_line([pixel(point) for point in drawn])
        if name := self.budget_name():
            words, start, placement = name
            end = (start[0], self.y.low) if self.is_frontier else (self.x.high, start[1])
            labels.avoid_line([pixel(start), pixel(end)])
            labels.avoid_box(placement.box(pixel(start), extent(words), unit=1))
        places = {
            line.name: labels.place(pixel(line.kept), extent(line.name), optional=crowded)
            for line in self.lines
        }
        return {name: placement for name, placement in places.items() if placement is not None}

    def budget_name(self) -> tuple[str, Point, Placement] | None:
        """The words where the budget's line begins, if that is in view: above, or at its left."""
        words = f"budget, DG ≤ {self.budget:g} %"
        if self.upward == LOSS and self.y.shows(self.budget):
            return words, (self.x.low, self.budget), Placement((6, 4), "left", "bottom")
        if self.across == LOSS and self.x.shows(self.budget):
            has_room = self.x.place(self.budget) < 0.6
            right, left = Placement((6, -4), "left", "top"), Placement((-6, -4), "right", "top")
            return words, (self.budget, self.y.high), right if has_room else left
        return None


def charts_of(results: Mapping[str, Metrics], order: Sequence[str], budget: float) -> list[Chart]:
    """S over DG, S over the steps, DG over the steps; only the second without general text.

    Lines come in this order of their names.
    """
    axes = axes_of(results, budget)
    charts = []
    for across, upward in ((LOSS, GAIN), ("step", GAIN), ("step", LOSS)):
        if across in axes and upward in axes:
            lines = lines_of(results, across, upward)
            lines.sort(key=lambda line: order.index(line.name))
            charts.append(Chart(across, upward, axes[across], axes[upward], lines, budget))
    return charts


def _told(evaluation: Evaluation, kept: str = "") -> str:
    """Like `step 20 (kept) · S 8.00 % · DG 4.00 %`."""
    values = [f"{place_of(evaluation)}{kept}", f"S {evaluation[GAIN]:z.2f} %"]
    loss = evaluation.get(LOSS)
    if loss is not None and math.isfinite(loss):
        values.append(f"DG {loss:z.2f} %")
    return " · ".join(values)
