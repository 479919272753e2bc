"""The paper's figures, drawn from our cells, with what the tables published as hollow marks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minifinetuning.lab.paper.cells import PaperCell, published_values
from minifinetuning.lab.paper.plan import DATA_SHARES, FigurePlan, Line
from minifinetuning.lab.paper.protocol import Protocol
from minifinetuning.report.pictures import saved_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["models_drawn", "save_paper_figure"]

Results = Mapping[PaperCell, Mapping[str, Any]]

_S, _DG, _RATIO = "specialization", "degeneralization", "ratio"
_LABELS = {_S: "S %", _DG: "DG %", _RATIO: "DG/S"}
_COLOURS = {"MFT": "#0072B2", "FT": "#D55E00", "Replay": "#009E73", "DoRA": "#CC79A7"}
_SHADES = ("#a6cee3", "#5aa2cf", "#1f6fae", "#08306b")
_WIDTH, _HEIGHT = 4.2, 3.4


def save_paper_figure(
    figure: FigurePlan, model: str, results: Results, protocol: Protocol, path: Path
) -> None:
    """Draw a figure for a model as .png or .svg; cells that are not done are left out."""
    draw = _over_steps if figure.over_steps else _over_knobs
    draw(figure, model, results, protocol, path)


def _over_steps(
    figure: FigurePlan, model: str, results: Results, protocol: Protocol, path: Path
) -> None:
    """S, DG and DG/S over the steps: finetuning above, minifinetuning below (figures 2 and 5)."""
    lines = figure.lines
    quantities = (_S, _DG, _RATIO) if figure.number == 5 else (_S, _DG)
    size = (_WIDTH * len(quantities), _HEIGHT * len(lines))
    with saved_figure(path, *size) as drawing:
        drawing.suptitle(f"{model}: {figure.title}", fontsize=11)
        panels = drawing.subplots(len(lines), len(quantities), sharex=True, sharey="col")
        for row, line in zip(panels, lines, strict=True):
            for axes, quantity in zip(row, quantities, strict=True):
                across = "step" if line is lines[-1] else ""
                _dress(axes, f"{line.name}: {_LABELS[quantity]}", across)
                cells = line.cells(model, figure.dataset)
                _draw_histories(axes, line, cells, quantity, results, protocol)
        handles, names = panels[0][0].get_legend_handles_labels()
        if handles:
            drawing.legend(handles, names, loc="outside right center", frameon=False, fontsize=9)


def _draw_histories(
    axes: "Axes",
    line: Line,
    cells: Sequence[PaperCell],
    quantity: str,
    results: Results,
    protocol: Protocol,
) -> None:
    for share, cell in zip(line.values, cells, strict=True):
        if cell not in results:
            continue
        points = [
            (entry["step"], value)
            for entry in results[cell]["history"]
            if (value := _value(entry, quantity)) is not None
        ]
        steps, values = [step for step, _ in points], [value for _, value in points]
        name = f"{protocol.tokens_of(cell):,} tokens"
        colour = _SHADES[DATA_SHARES.index(share)]
        axes.plot(steps, values, "o-", color=colour, markersize=3, linewidth=1.4, label=name)


def _value(entry: Mapping[str, Any], quantity: str) -> float | None:
    """The ratio has no meaning at the start, nor where nothing was gained."""
    if quantity == _RATIO and not entry.get(_S, 0) > 0:
        return None
    value: float | None = entry.get(quantity)
    return value


def _over_knobs(
    figure: FigurePlan, model: str, results: Results, protocol: Protocol, path: Path
) -> None:
    """Each quantity over the knob; figure 4 has DG over S in place of the first two."""
    panels: list[tuple[str | None, str]] = [(None, _S), (None, _DG), (None, _RATIO)]
    if figure.number == 4:
        panels = [(_S, _DG), (None, _RATIO)]
    published = {row.cell: vars(row) for row in published_values()}
    with saved_figure(path, _WIDTH * len(panels) + 1.2, _HEIGHT + 0.5) as drawing:
        drawing.suptitle(f"{model}: {figure.title}", fontsize=11)
        for axes, (across, upward) in zip(drawing.subplots(1, len(panels)), panels, strict=True):
            _dress(axes, _LABELS[upward], _LABELS[across] if across else "τ, ν or r / 200")
            for line in figure.lines:
                cells = line.cells(model, figure.dataset)
                _draw_line(axes, line, cells, across, upward, results)
                _draw_line(axes, line, cells, across, upward, published, is_published=True)
        handles, names = drawing.axes[0].get_legend_handles_labels()
        drawing.legend(handles, names, loc="outside right center", frameon=False, fontsize=9)


def _draw_line(
    axes: "Axes",
    line: Line,
    cells: Sequence[PaperCell],
    across: str | None,
    upward: str,
    results: Results,
    is_published: bool = False,
) -> None:
    """`across` is what stands on the horizontal axis, the knob where it is None."""
    points = [
        (knob / line.full if across is None else results[cell][across], results[cell][upward])
        for knob, cell in zip(line.values, cells, strict=True)
        if cell in results and results[cell][upward] is not None
    ]
    if points:
        name = f"{line.name} (published)" if is_published else line.name
        (mark,) = axes.plot(*zip(*points, strict=True), "o-", label=name, markersize=4)
        mark.set(color=_COLOURS[line.method], linewidth=1.4)
        if is_published:
            mark.set(markerfacecolor="white", linestyle=":")


def _dress(axes: "Axes", title: str, across: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(across, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def models_drawn(models: Sequence[str], figure: FigurePlan, results: Results) -> list[str]:
    """The models of which there is at least one cell of the figure."""
    return [model for model in models if any(cell in results for cell in figure.cells([model]))]
