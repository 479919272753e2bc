"""The paper's figures, drawn from our cells, with what the tables published as hollow marks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minifinetuning.lab.paper.cells import PaperCell, published_values
from minifinetuning.lab.paper.plan import DATA_SHARES, FigurePlan, Series
from minifinetuning.lab.paper.protocol import Protocol
from minifinetuning.report.figures import saved_figure

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
    lines = figure.series(model)
    quantities = (_S, _DG, _RATIO) if figure.number == 5 else (_S, _DG)
    size = (_WIDTH * len(quantities), _HEIGHT * len(lines))
    with saved_figure(path, *size) as drawing:
        drawing.suptitle(f"{model}: {figure.title}", fontsize=11)
        panels = drawing.subplots(len(lines), len(quantities), sharex=True, sharey="col")
        for row, line in zip(panels, lines, strict=True):
            for axes, quantity in zip(row, quantities, strict=True):
                across = "step" if line is lines[-1] else ""
                _dress(axes, f"{line.name}: {_LABELS[quantity]}", across)
                _draw_histories(axes, line, quantity, results, protocol)
        handles, names = panels[0][0].get_legend_handles_labels()
        if handles:
            drawing.legend(handles, names, loc="outside right center", frameon=False, fontsize=9)


def _draw_histories(
    axes: "Axes", line: Series, quantity: str, results: Results, protocol: Protocol
) -> None:
    for share, cell in zip(line.values, line.cells, strict=True):
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
    lines = figure.series(model)
    panels = (
        [(_S, _DG), (None, _RATIO)]
        if figure.number == 4
        else [(None, quantity) for quantity in (_S, _DG, _RATIO)]
    )
    with saved_figure(path, _WIDTH * len(panels) + 1.2, _HEIGHT + 0.5) as drawing:
        drawing.suptitle(f"{model}: {figure.title}", fontsize=11)
        for axes, (across, upward) in zip(drawing.subplots(1, len(panels)), panels, strict=True):
            _dress(axes, _LABELS[upward], _LABELS[across] if across else "τ, ν or r / 200")
            for line in lines:
                _draw_series(axes, line, across, upward, results)
        handles, names = drawing.axes[0].get_legend_handles_labels()
        drawing.legend(handles, names, loc="outside right center", frameon=False, fontsize=9)


def _draw_series(
    axes: "Axes", line: Series, across: str | None, upward: str, results: Results
) -> None:
    colour = _COLOURS[line.name.split(",")[0]]
    hollow = {"markerfacecolor": "white", "linestyle": ":"}
    for found, look, name in (
        ([results.get(cell) for cell in line.cells], {}, line.name),
        (_published(line.cells), hollow, f"{line.name} (published)"),
    ):
        points = [
            (x if across is None else values[across], values[upward])
            for x, values in zip(line.x, found, strict=True)
            if values is not None and values[upward] is not None
        ]
        if points:
            appearance: dict[str, Any] = {"color": colour, "marker": "o", "markersize": 4, **look}
            axes.plot(*zip(*points, strict=True), linewidth=1.4, label=name, **appearance)


def _published(cells: Sequence[PaperCell]) -> list[dict[str, Any] | None]:
    rows = {row.cell: row for row in published_values()}
    names = (_S, _DG, _RATIO)
    return [
        {name: getattr(rows[cell], name) for name in names} if cell in rows else None
        for cell in cells
    ]


def _dress(axes: "Axes", title: str, across: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(across, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def models_drawn(models: Sequence[str], figure: FigurePlan, results: Results) -> list[str]:
    """The models of which there is at least one cell of the figure."""
    return [model for model in models if any(cell in results for cell in figure.cells([model]))]
