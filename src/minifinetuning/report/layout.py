"""Where things stand in a picture, of a file or of the page: axes, lines, and room for words."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from minifinetuning.errors import InputError
from minifinetuning.report.line_styles import LineStyle, line_styles
from minifinetuning.report.recommendation import Evaluation, evaluations, is_blend
from minifinetuning.report.sentences import Metrics

__all__ = [
    "GAIN",
    "LOSS",
    "Axis",
    "Box",
    "Labels",
    "Line",
    "Placement",
    "Point",
    "axes_of",
    "is_crowded",
    "lines_of",
]

Point = tuple[float, float]

GAIN, LOSS = "specialization", "degeneralization"

_CROWD = 4  # more lines than this leave no room for all their names
_MARGIN = 0.08  # of the range shown, on either side
_WIDE = 5  # the largest DG in medians from which on the axis is narrowed


@dataclass(frozen=True)
class Axis:
    """The values from `low` to `high`, along an axis of the length 1.

    With a `width` a value is drawn at asinh(value / width), which is linear up to that width and
    logarithmic far above it.
    """

    low: float
    high: float
    width: float | None = None

    def place(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high one."""
        low, high = self._spread(self.low), self._spread(self.high)
        return (self._spread(value) - low) / (high - low)

    def shows(self, value: float) -> bool:
        """Whether a value lies between the ends."""
        return self.low <= value <= self.high

    def ticks(self, spacing: float) -> list[float]:
        """Round values in order, each farther than `spacing` from the next; zero if it is shown."""
        if self.width is None:
            least = spacing * (self.high - self.low)
            power = 10.0 ** math.floor(math.log10(least))
            size = next(power * digit for digit in (1, 2, 5, 10) if power * digit >= least)
            numbers = range(math.ceil(self.low / size), math.floor(self.high / size) + 1)
            return [float(f"{number * size:.12g}") for number in numbers]
        ticks = [0.0]
        for sign in (1, -1):
            last = 0.0
            for tick in (
                sign * digit * 10.0**power for power in range(-3, 9) for digit in (1, 2, 5)
            ):
                if abs(self.place(tick) - self.place(last)) >= spacing and self.shows(tick):
                    ticks.append(tick)
                    last = tick
        return sorted(ticks)

    def with_margins(self) -> "Axis":
        """A little more on either side, as far on the page where the axis is narrowed."""
        low, high = self._spread(self.low), self._spread(self.high)
        margin = _MARGIN * ((high - low) or 1.0)
        ends = low - margin, high + margin
        if self.width is not None:
            ends = self.width * math.sinh(ends[0]), self.width * math.sinh(ends[1])
        return Axis(*ends, self.width)

    def _spread(self, value: float) -> float:
        return value if self.width is None else math.asinh(value / self.width)


def axes_of(results: Mapping[str, Metrics], budget: float | None) -> dict[str, Axis]:
    """The axes of the steps, of S and of DG (%), the last only where a result has general text.

    They hold the steps kept with their intervals, the way to them, and the budget (DG, %).
    What a run lost long after the step that it kept may stay outside: S below minus half of the
    largest gain, DG above twice that of the steps kept. So may a budget that nobody came near.
    Where one result lost many times what the others did, the axis of DG is narrowed.
    """
    steps = [entry["step"] for row in results.values() for entry in evaluations(row, "step")]
    gains = list(_values(results, GAIN))
    lowest, highest = min(0.0, *gains), max(0.0, *gains)
    gain = Axis(max(lowest, -highest / 2) if highest > 0 else lowest, highest)
    axes = {"step": Axis(0, max([1, *steps])), GAIN: gain.with_margins()}
    kept = [_interval(row, LOSS)[1] for row in results.values() if row[LOSS] is not None]
    if kept:
        losses = list(_values(results, LOSS))
        reach = 2 * max(kept) if max(kept) > 0 else math.inf
        highest = min(max(losses), reach)
        if budget is not None and budget <= reach:
            highest = max(highest, budget)
        typical = median(kept)
        width = typical if max(kept) > _WIDE * typical > 0 else None
        axes[LOSS] = Axis(min(0.0, *losses), max(0.0, highest), width).with_margins()
    return axes


@dataclass(frozen=True)
class Line:
    """One result in a picture: its evaluations in order, the one kept, and the intervals of that.

    `points` are the evaluations as they are drawn, `bars` the two ends of each interval.
    """

    name: str
    metrics: Metrics
    style: LineStyle
    evaluations: list[Evaluation]
    points: list[Point]
    kept: Point
    bars: list[list[Point]]


def lines_of(results: Mapping[str, Metrics], across: str, upward: str) -> list[Line]:
    """One line per result that has the quantity `upward`, over the quantity `across`.

    Blends, which all lie at one step, are left out where that is `across`; steps have no interval.
    Raises InputError where there is no result.
    """
    if not results:
        raise InputError("there is no result to draw: name at least one metrics.json")
    lines = []
    for name, style in line_styles(results).items():
        metrics = results[name]
        x, y = kept = metrics[across], metrics[upward]
        if None in kept or (across == "step" and is_blend(metrics)):
            continue
        entries = evaluations(metrics, across, upward)
        points = [(entry[across], entry[upward]) for entry in entries]
        bars = [[(x, bound) for bound in _interval(metrics, upward)]]
        if across != "step":
            bars.insert(0, [(bound, y) for bound in _interval(metrics, across)])
        lines.append(Line(name, metrics, style, entries, points, kept, bars))
    return lines


def is_crowded(lines: Collection[object]) -> bool:
    """Whether so many lines would hide each other's names."""
    return len(lines) > _CROWD


class Box(NamedTuple):
    """A rectangle in pixels, upwards."""

    left: float
    bottom: float
    right: float
    top: float

    def overlaps(self, other: "Box") -> bool:
        """Whether the two have a point in common."""
        apart_across = self.right < other.left or other.right < self.left
        return not (apart_across or self.top < other.bottom or other.top < self.bottom)


class Placement(NamedTuple):
    """Where a text stands beside its point: shifted by points of type, and which edge is there."""

    shift: Point
    horizontal: str
    vertical: str

    def box(self, point: Point, size: Point, unit: float) -> Box:
        """What a text of that width and height covers, with `unit` pixels to a point of type."""
        share = {"left": 0.0, "bottom": 0.0, "center": 0.5, "right": 1.0, "top": 1.0}
        left = point[0] + unit * self.shift[0] - share[self.horizontal] * size[0]
        bottom = point[1] + unit * self.shift[1] - share[self.vertical] * size[1]
        return Box(left, bottom, left + size[0], bottom + size[1])


_NEAR = [
    Placement((9, 0), "left", "center"),
    Placement((7, 7), "left", "bottom"),
    Placement((7, -7), "left", "top"),
    Placement((-7, 7), "right", "bottom"),
    Placement((-9, 0), "right", "center"),
    Placement((-7, -7), "right", "top"),
    Placement((0, 12), "center", "bottom"),
    Placement((0, -12), "center", "top"),
]
_FAR = [
    Placement((9, 20), "left", "center"),
    Placement((9, 33), "left", "center"),
    Placement((9, -20), "left", "center"),
]
_SPACING = 4  # pixels between the points that stand for a line
_MOST_POINTS = 2000  # of one stretch: a run that diverges leaves the picture by millions of pixels
_PADDING = 2  # pixels around a text that a line should not cross
_TEXT_COST = 100  # to lie on another text is as bad as to lie on this many points of lines


class Labels:
    """Finds room for one text after another, away from the lines and the texts before it.

    All places are pixels, upwards, `unit` of them to a point of type. Nothing leaves `frame`.
    """

    def __init__(self, unit: float, frame: Box | None = None) -> None:
        self._unit = unit
        self._frame = frame
        self._points: list[Point] = []
        self._boxes: list[Box] = []

    def avoid_line(self, corners: Sequence[Point]) -> None:
        """Keep later texts off the line through these points."""
        for (x, y), (next_x, next_y) in pairwise(corners):
            count = min(int(math.hypot(next_x - x, next_y - y) / _SPACING) + 1, _MOST_POINTS)
            for index in range(count + 1):
                share = index / count
                self._points.append((x + share * (next_x - x), y + share * (next_y - y)))

    def avoid_box(self, box: Box) -> None:
        """Keep later texts off this one."""
        self._boxes.append(box)

    def place(self, point: Point, size: Point, *, optional: bool = False) -> Placement | None:
        """Where a text of this width and height beside `point` hides least.

        An `optional` one has no place, None, where it would hide anything at all.
        """
        candidates = _NEAR if optional else _NEAR + _FAR
        boxes = [candidate.box(point, size, self._unit) for candidate in candidates]
        costs = [self._cost(box) for box in boxes]
        best = costs.index(min(costs))
        if optional and costs[best] > 0:
            return None
        self._boxes.append(boxes[best])
        return candidates[best]

    def _cost(self, box: Box) -> float:
        left, bottom, right, top = box
        frame = self._frame
        if frame and (left < frame.left or right > frame.right or top > frame.top):
            return math.inf
        hidden_points = sum(
            left - _PADDING <= x <= right + _PADDING and bottom - _PADDING <= y <= top + _PADDING
            for x, y in self._points
        )
        return hidden_points + _TEXT_COST * sum(box.overlaps(other) for other in self._boxes)


def _interval(metrics: Metrics, quantity: str) -> Point:
    """The interval at the step kept; the value itself stands in for a bound that is not finite."""
    low, high = metrics["intervals"][quantity] or (None, None)
    value = metrics[quantity]
    return value if low is None else low, value if high is None else high


def _values(results: Mapping[str, Metrics], quantity: str) -> Iterable[float]:
    """All values on the way and the bounds at the step kept."""
    for metrics in results.values():
        for entry in evaluations(metrics, quantity):
            yield entry[quantity]
        if metrics[quantity] is not None:
            yield from _interval(metrics, quantity)
