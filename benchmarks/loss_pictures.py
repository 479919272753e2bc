"""The pictures of `loss.py`: bars for one size, lines over several."""

import statistics
from typing import TYPE_CHECKING, Any

from reports import BLUE, GREY, ORANGE, OTHERS, finish, finish_log_axis, seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Cell = dict[str, Any]

_FAINT_BLUE, _FAINT_ORANGE = "#9ec5dd", "#eebf9a"


def draw(figure: "Figure", cells: list[Cell]) -> None:
    """Full time and peak memory of every loss that could be measured."""
    measured = [cell for cell in cells if "forward" in cell]
    sizes = {(cell["tokens"], cell["vocabulary"]) for cell in cells}
    if len(sizes) == 1:
        _draw_bars(figure, measured)
    else:
        _draw_lines(figure, measured)


def _full(cell: Cell) -> float:
    return statistics.median(map(sum, zip(cell["forward"], cell["backward"], strict=True)))


def _memory(cell: Cell) -> float | None:
    peak = cell.get("peak_bytes")
    return None if peak is None else peak / 2**30


def _label(cell: Cell) -> str:
    return f"{cell['loss']} ({cell['objective']})"


def _draw_bars(figure: "Figure", cells: list[Cell]) -> None:
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, value, text in ((left, _full, seconds), (right, _memory, "{:.2f} GiB".format)):
        for height, cell in enumerate(reversed(cells)):
            amount = value(cell)
            if amount is None:
                axes.text(0, height, " not measured", va="center", color=GREY, fontsize=8.5)
                continue
            axes.barh(height, amount, 0.66, color=_bar_colour(cell))
            axes.annotate(
                text(amount),
                (amount, height),
                (5, 0),
                "data",
                "offset points",
                va="center",
                fontsize=9,
            )
        axes.margins(x=0.22, y=0.02)
    left.set_yticks(range(len(cells)), [_label(cell) for cell in reversed(cells)])
    size = f"{cells[0]['tokens']:,} tokens, vocabulary {cells[0]['vocabulary']:,}" if cells else ""
    finish(left, "Time, forward and backward", f"{size}  (lower is better ←)")
    finish(right, "Peak memory above the inputs", "(lower is better ←)")
    left.set_xlabel("seconds")
    right.set_xlabel("GiB")


def _bar_colour(cell: Cell) -> str:
    """FT in orange, distillation in blue; ours full, peers faint."""
    ours = cell["loss"].startswith("minifinetuning")
    if cell["objective"] == "FT":
        return ORANGE if ours else _FAINT_ORANGE
    return BLUE if ours else _FAINT_BLUE


def _draw_lines(figure: "Figure", cells: list[Cell]) -> None:
    """Over tokens (left) and vocabulary (right); time above, memory below."""
    figure.set_size_inches(11, 8)
    grid = figure.subplots(2, 2, sharex="col")
    columns = (("tokens", "vocabulary"), ("vocabulary", "tokens"))
    for column, (across, fixed) in enumerate(columns):
        kept = _fixed_value(cells, across, fixed)
        rows = ((_full, "time, forward and backward", "seconds"), (_memory, "peak memory", "GiB"))
        for row, (value, what, unit) in enumerate(rows):
            axes = grid[row][column]
            _draw_panel(axes, [cell for cell in cells if cell[fixed] == kept], across, value)
            axes.set_ylabel(unit)
            finish(axes, what.capitalize(), f"over {across}; {fixed} {kept:,}")
        grid[1][column].set_xlabel(across)
    handles, names = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", frameon=False, fontsize=8.5)


def _fixed_value(cells: list[Cell], across: str, fixed: str) -> int:
    """The value of `fixed` for which the most values of `across` were measured."""
    values = {cell[fixed] for cell in cells}
    return max(values, key=lambda v: len({c[across] for c in cells if c[fixed] == v}))


def _draw_panel(axes: "Axes", cells: list[Cell], across: str, value: Any) -> None:
    for label, style in _styles(cells).items():
        points = [(c[across], value(c)) for c in cells if _label(c) == label]
        points = sorted(point for point in points if point[1])
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker="o", markersize=3.5, **style)
    axes.set(xscale="log", yscale="log")
    finish_log_axis(axes.yaxis)
    ticks = sorted({cell[across] for cell in cells})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks], fontsize=8.5)
    axes.xaxis.minorticks_off()


def _styles(cells: list[Cell]) -> dict[str, dict[str, Any]]:
    """Ours are thick, FT is dashed; each name of a peer has its colour."""
    names = list(dict.fromkeys(c["loss"] for c in cells if not _is_ours(c)))
    colours = dict(zip(names, OTHERS * (1 + len(names) // len(OTHERS)), strict=False))
    styles = {}
    for cell in cells:
        finetuning = cell["objective"] == "FT"
        own = ORANGE if finetuning else BLUE
        styles[_label(cell)] = {
            "color": own if _is_ours(cell) else colours[cell["loss"]],
            "linewidth": 2.4 if _is_ours(cell) else 1.2,
            "linestyle": "--" if finetuning else "-",
        }
    return styles


def _is_ours(cell: Cell) -> bool:
    return bool(cell["loss"].startswith("minifinetuning"))
