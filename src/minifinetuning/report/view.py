"""The part of the plane of S and DG that a picture shows, and how its DG axis is spaced."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median

from minifinetuning.report.ranking import evaluations
from minifinetuning.report.tables import Metrics

__all__ = ["View", "interval_or_value", "view_of"]

Range = tuple[float, float]

_GAIN, _LOSS = "specialization", "degeneralization"
_MARGIN = 0.08  # of the range shown, on either side
_WIDE = 5  # the largest DG in medians from which on the axis is narrowed


@dataclass(frozen=True)
class View:
    """Limits (%) of S and of DG; `loss` is None where no result has general text.

    Where one result lost many times what the others did, DG is drawn at
    asinh(DG / `loss_width`), which is linear up to that width (%) and logarithmic far above it.
    """

    gain: Range
    loss: Range | None
    loss_width: float | None

    def loss_ticks(self, spacing: float) -> list[float]:
        """Round values of DG from zero outwards, apart by a share `spacing` of a narrowed axis."""
        assert self.loss is not None
        assert self.loss_width is not None
        low, high = (math.asinh(bound / self.loss_width) for bound in self.loss)
        powers = range(-3, 4)
        rounded = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
        ticks = [0.0]
        for sign, edge in ((1, high), (-1, -low)):
            last = 0.0
            for value in rounded:
                place = math.asinh(value / self.loss_width)
                if place - last >= spacing * (high - low) and place <= edge:
                    ticks.append(sign * value)
                    last = place
        return sorted(ticks)


def view_of(results: Mapping[str, Metrics], budget: float | None) -> View:
    """What holds the steps kept with their intervals, the way to them, and the budget (DG, %).

    What a run lost long after the step that it kept may stay outside: S below minus half of the
    largest gain, DG above twice that of the steps kept. So may a budget that nobody came near.
    """
    gains = list(_values(results, _GAIN))
    lowest, highest = min(0.0, *gains), max(0.0, *gains)
    gain = _with_margins(max(lowest, -highest / 2) if highest > 0 else lowest, highest)
    lost = [metrics for metrics in results.values() if metrics[_LOSS] is not None]
    if not lost:
        return View(gain, None, None)
    losses = list(_values(results, _LOSS))
    kept = [interval_or_value(metrics, _LOSS)[1] for metrics in lost]
    reach = 2 * max(kept) if max(kept) > 0 else math.inf
    highest = min(max(losses), reach)
    if budget is not None and budget <= reach:
        highest = max(highest, budget)
    typical = median(kept)
    width = typical if max(kept) > _WIDE * typical > 0 else None
    return View(gain, _with_margins(min(0.0, *losses), max(0.0, highest), width), width)


def interval_or_value(metrics: Metrics, quantity: str) -> Range:
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
            yield from interval_or_value(metrics, quantity)


def _with_margins(low: float, high: float, width: float | None = None) -> Range:
    """The range and a little more on either side, as far on the page where `width` narrows it."""
    if width is not None:
        start, end = _with_margins(math.asinh(low / width), math.asinh(high / width))
        return width * math.sinh(start), width * math.sinh(end)
    margin = _MARGIN * ((high - low) or 1.0)
    return low - margin, high + margin
