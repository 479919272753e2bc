"""Words in a picture, each put where it hides nothing."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

__all__ = ["Labels"]

# Where a label may stand beside its point: the shift in points, and how the text is aligned to it.
_NEAR = (
    ((9, 0), "left", "center"),
    ((7, 7), "left", "bottom"),
    ((7, -7), "left", "top"),
    ((-7, 7), "right", "bottom"),
    ((-9, 0), "right", "center"),
    ((-7, -7), "right", "top"),
    ((0, 12), "center", "bottom"),
    ((0, -12), "center", "top"),
)
_FAR = (((9, 20), "left", "center"), ((9, 33), "left", "center"), ((9, -20), "left", "center"))
_SPACING = 4  # pixels between the points that stand for a line
_TEXT_COST = 100  # to lie on another text is as bad as to lie on this many points of lines


class Labels:
    """Places labels one after another, each away from the lines and the labels before it.

    The axes must have their limits and layout already: distances are counted on the page.
    """

    def __init__(self, axes: "Axes") -> None:
        self._axes = axes
        self._points: list[tuple[float, float]] = []
        self._boxes: list[Bbox] = []

    def avoid(self, line: Sequence[tuple[float, float]]) -> None:
        """Keep later labels off the line through these points (data units)."""
        corners = self._axes.transData.transform(line)
        for (x, y), (next_x, next_y) in pairwise(corners):
            count = int(math.hypot(next_x - x, next_y - y) / _SPACING) + 1
            for index in range(count + 1):
                share = index / count
                self._points.append((x + share * (next_x - x), y + share * (next_y - y)))

    def add(
        self, text: str, point: tuple[float, float], *, optional: bool = False, **style: Any
    ) -> None:
        """Write `text` beside `point` (data units), where it hides least.

        An `optional` label is left out where it would hide anything at all.
        """
        candidates = [
            self._axes.annotate(
                text,
                point,
                shift,
                textcoords="offset points",
                ha=horizontal,
                va=vertical,
                zorder=7,
                **style,
            )
            for shift, horizontal, vertical in (_NEAR if optional else _NEAR + _FAR)
        ]
        boxes = [candidate.get_window_extent() for candidate in candidates]
        costs = [self._cost(box) for box in boxes]
        best = costs.index(min(costs))
        left_out = optional and costs[best] > 0
        for index, candidate in enumerate(candidates):
            if index != best or left_out:
                candidate.remove()
        if not left_out:
            self._boxes.append(boxes[best])

    def _cost(self, box: "Bbox") -> int:
        hidden_points = sum(box.padded(2).contains(*point) for point in self._points)
        hidden_texts = sum(box.overlaps(other) for other in self._boxes)
        return hidden_points + _TEXT_COST * hidden_texts
