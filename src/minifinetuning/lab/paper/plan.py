"""Which cells a table or a figure of the paper is made of."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from minifinetuning.errors import InputError, did_you_mean
from minifinetuning.lab.paper.cells import (
    TABLES,
    PaperCell,
    Published,
    paper_cell,
    published_values,
)

__all__ = ["DATA_SHARES", "FIGURES", "FigurePlan", "Line", "Plan", "plan_of", "stand_in"]

DATA_SHARES = (0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Line:
    """A line of a figure: a method over the `values` of a knob, of which `full` stands at 1."""

    name: str
    method: str
    knob: str
    values: tuple[float, ...]
    full: float = 1.0

    def cells(self, model: str, dataset: str) -> list[PaperCell]:
        """The cell of each value."""
        knobs = ({self.knob: value} for value in self.values)
        return [paper_cell(model, self.method, dataset, **knob) for knob in knobs]


@dataclass(frozen=True)
class FigurePlan:
    """A figure: what it shows, and its lines, over a knob or `over_steps` of training."""

    number: int
    title: str
    models: tuple[str, ...]
    dataset: str
    lines: tuple[Line, ...]
    over_steps: bool = False

    def cells(self, models: Sequence[str]) -> list[PaperCell]:
        """Those of these models, each once."""
        lines = (line.cells(model, self.dataset) for model in models for line in self.lines)
        return _distinct(cell for cells in lines for cell in cells)

    def only(self, values: Collection[float]) -> "FigurePlan":
        """The figure with these values of its knobs alone."""
        lines = (
            replace(line, values=tuple(value for value in line.values if value in values))
            for line in self.lines
        )
        return replace(self, lines=tuple(lines))


_TENTHS = tuple(tenth / 10 for tenth in range(11))
_TARGETS = Line("MFT, τ", "MFT", "tau", _TENTHS)
_FRACTIONS = Line("Replay, ν", "Replay", "new_data_fraction", _TENTHS[1:])
# The paper's figures put rank 200 at 1.
_RANKS = (1, 4, 8, 16, 24, 32, 64, 128, 160, 192, 256)
_RANKED = Line("DoRA, r / 200", "DoRA", "rank", _RANKS, full=200)
_SCARCITY = tuple(Line(method, method, "data_share", DATA_SHARES) for method in ("FT", "MFT"))
_OPENELM = ("OpenELM 270M", "OpenELM 450M", "OpenELM 1.1B")

FIGURES = {
    figure.number: figure
    for figure in (
        FigurePlan(
            number=2,
            title="S and DG over the steps of finetuning and minifinetuning, by training tokens",
            models=_OPENELM[:1],
            dataset="PubMed",
            lines=_SCARCITY,
            over_steps=True,
        ),
        FigurePlan(
            number=4,
            title="MFT of increasing τ, replay of increasing ν, DoRA of increasing rank",
            models=_OPENELM[2:],
            dataset="Pile of Law",
            lines=(_TARGETS, _FRACTIONS, _RANKED),
        ),
        FigurePlan(
            number=5,
            title="S, DG and DG/S over the steps of finetuning and minifinetuning, by training "
            "tokens",
            models=_OPENELM[:1],
            dataset="PubMed",
            lines=_SCARCITY,
            over_steps=True,
        ),
        FigurePlan(
            number=6,
            title="Replay of increasing ν against MFT of increasing τ",
            models=_OPENELM,
            dataset="Pile of Law",
            lines=(_TARGETS, _FRACTIONS),
        ),
        FigurePlan(
            number=7,
            title="DoRA of increasing rank against MFT of increasing τ",
            models=_OPENELM[2:],
            dataset="OpenWebMath",
            lines=(_TARGETS, _RANKED),
        ),
    )
}
"""Figures 1 and 3 of the paper show no measurements."""


@dataclass(frozen=True)
class Plan:
    """What was asked for: rows of tables, figures with the models to draw, and all their cells."""

    rows: list[Published]
    figures: list[tuple[FigurePlan, tuple[str, ...]]]

    @property
    def cells(self) -> list[PaperCell]:
        """Each training once, in the order of tables, then figures."""
        of_figures = (cell for figure, models in self.figures for cell in figure.cells(models))
        return _distinct([*(row.cell for row in self.rows), *of_figures])


def plan_of(
    *,
    table: int | None = None,
    figure: int | None = None,
    model: str | None = None,
    dataset: str | None = None,
    method: str | None = None,
    values: Collection[float] | None = None,
) -> Plan:
    """The rows and figures asked for; where neither a table nor a figure is named, all of them.

    A `model` that the paper does not have stands in for the first one of each table, and is that
    of each figure. `dataset` and `method` are names of the paper; a table or figure of one dataset
    that was named itself is run on any other. `values` are the only ones of what a table or figure
    varies: tau, nu, the rank, or the training text as a share. Raises InputError for a number that
    no table or figure has, and where nothing is left.
    """
    known = sorted({name for row in published_values() for name in (row.method, row.cell.method)})
    if method is not None and method not in known:
        raise InputError(f"--method {method} is not known{did_you_mean(method, known)}")
    _require_known("--table", table, TABLES)
    _require_known("--figure", figure, tuple(FIGURES))
    everything = table is None and figure is None
    numbers = TABLES if everything else () if table is None else (table,)
    rows = [row for number in numbers for row in _rows(number, model)]
    if dataset and not everything and len({row.cell.dataset for row in rows}) == 1:
        rows = [replace(row, cell=replace(row.cell, dataset=dataset)) for row in rows]
    rows = [
        row
        for row in rows
        if dataset in (None, row.cell.dataset)
        and method in (None, row.method, row.cell.method)
        and (values is None or row.knob in values)
    ]
    chosen = [*FIGURES.values()] if everything and not (dataset or method) else []
    if figure is not None:
        chosen = [FIGURES[figure]]
    if dataset is not None:
        chosen = [replace(plan, dataset=dataset) for plan in chosen]
    if values is not None:
        chosen = [plan.only(values) for plan in chosen]
    figures = [(plan, (model,) if model else plan.models) for plan in chosen]
    figures = [(plan, models) for plan, models in figures if plan.cells(models)]
    if not rows and not figures:
        raise InputError(
            "nothing of the paper is left under these --table, --model, --dataset, --method and "
            "--values: `mft reproduce --list` says what there is"
        )
    return Plan(rows, figures)


def stand_in(rows: Sequence[Published]) -> PaperCell:
    """The cell of a table that another model or dataset stands in for: the first that it lists."""
    return rows[0].cell


def _rows(number: int, model: str | None) -> list[Published]:
    rows = [row for row in published_values() if row.table == number]
    if model is None:
        return rows
    known = {row.cell.model for row in published_values()}
    if model in known:
        return [row for row in rows if row.cell.model == model]
    first = stand_in(rows).model
    return [
        replace(row, cell=replace(row.cell, model=model)) for row in rows if row.cell.model == first
    ]


def _require_known(option: str, number: int | None, known: Sequence[int]) -> None:
    if number is not None and number not in known:
        raise InputError(
            f"{option} {number} is not there: choose one of {', '.join(map(str, known))}"
        )


def _distinct(cells: Iterable[PaperCell]) -> list[PaperCell]:
    return [*dict.fromkeys(cells)]
