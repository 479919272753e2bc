"""Which cells a table or a figure of the paper is made of."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from minifinetuning.errors import InputError, did_you_mean
from minifinetuning.lab.paper.cells import (
    TABLES,
    PaperCell,
    Published,
    paper_cell,
    published_values,
)

__all__ = ["DATA_SHARES", "FIGURES", "FigurePlan", "Plan", "Series", "plan_of", "stand_in"]

TAUS = tuple(tenth / 10 for tenth in range(11))
NEW_DATA_FRACTIONS = tuple(tenth / 10 for tenth in range(1, 11))
RANKS = (1, 4, 8, 16, 24, 32, 64, 128, 160, 192, 256)
DATA_SHARES = (0.25, 0.5, 1.0, 2.0)

FULL_RANK = 200
"""The rank that the paper's figures put at 1."""


@dataclass(frozen=True)
class Series:
    """A line of a figure: cells over the `values` of a knob, of which the one at `full` is at 1."""

    name: str
    values: tuple[float, ...]
    cells: tuple[PaperCell, ...]
    full: float = 1.0

    @property
    def x(self) -> tuple[float, ...]:
        """Where the cells stand."""
        return (*(value / self.full for value in self.values),)

    def only(self, values: Collection[float]) -> "Series":
        """The cells of these values of the knob."""
        kept = [pair for pair in zip(self.values, self.cells, strict=True) if pair[0] in values]
        return replace(
            self, values=(*(value for value, _ in kept),), cells=(*(cell for _, cell in kept),)
        )


@dataclass(frozen=True)
class FigurePlan:
    """A figure: what it shows, and its lines for a model. `over_steps` are lines over training.

    `lines` are those of a model and a dataset; `values` are the only ones of the knob, if not None.
    """

    number: int
    title: str
    models: tuple[str, ...]
    dataset: str
    lines: Callable[[str, str], list[Series]]
    over_steps: bool = False
    values: frozenset[float] | None = None

    def series(self, model: str) -> list[Series]:
        """The lines for a model."""
        lines = self.lines(model, self.dataset)
        return lines if self.values is None else [line.only(self.values) for line in lines]

    def cells(self, models: Sequence[str]) -> list[PaperCell]:
        """Those of these models, each once."""
        lines = (line for model in models for line in self.series(model))
        return _distinct(cell for line in lines for cell in line.cells)


def _targets(model: str, dataset: str) -> Series:
    cells = (paper_cell(model, "MFT", dataset, tau=tau) for tau in TAUS)
    return Series("MFT, τ", TAUS, (*cells,))


def _fractions(model: str, dataset: str) -> Series:
    cells = (
        paper_cell(model, "Replay", dataset, new_data_fraction=share)
        for share in NEW_DATA_FRACTIONS
    )
    return Series("Replay, ν", NEW_DATA_FRACTIONS, (*cells,))


def _ranks(model: str, dataset: str) -> Series:
    cells = (paper_cell(model, "DoRA", dataset, rank=rank) for rank in RANKS)
    return Series("DoRA, r / 200", RANKS, (*cells,), full=FULL_RANK)


def _scarcity(model: str, dataset: str) -> list[Series]:
    return [
        Series(
            method,
            DATA_SHARES,
            (*(paper_cell(model, method, dataset, data_share=share) for share in DATA_SHARES),),
        )
        for method in ("FT", "MFT")
    ]


def _lines(*parts: Callable[[str, str], Series]) -> Callable[[str, str], list[Series]]:
    return lambda model, dataset: [part(model, dataset) for part in parts]


_OPENELM = ("OpenELM 270M", "OpenELM 450M", "OpenELM 1.1B")

FIGURES = {
    figure.number: figure
    for figure in (
        FigurePlan(
            2,
            "S and DG over the steps of finetuning and minifinetuning, by training tokens",
            ("OpenELM 270M",),
            "PubMed",
            _scarcity,
            over_steps=True,
        ),
        FigurePlan(
            4,
            "MFT of increasing τ, replay of increasing ν, DoRA of increasing rank",
            ("OpenELM 1.1B",),
            "Pile of Law",
            _lines(_targets, _fractions, _ranks),
        ),
        FigurePlan(
            5,
            "S, DG and DG/S over the steps of finetuning and minifinetuning, by training tokens",
            ("OpenELM 270M",),
            "PubMed",
            _scarcity,
            over_steps=True,
        ),
        FigurePlan(
            6,
            "Replay of increasing ν against MFT of increasing τ",
            _OPENELM,
            "Pile of Law",
            _lines(_targets, _fractions),
        ),
        FigurePlan(
            7,
            "DoRA of increasing rank against MFT of increasing τ",
            ("OpenELM 1.1B",),
            "OpenWebMath",
            _lines(_targets, _ranks),
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
    chosen = FIGURES.values() if everything else [] if figure is None else [FIGURES[figure]]
    if (dataset or method) and figure is None:
        chosen = []
    figures = [
        (_narrowed(plan, dataset, values), (model,) if model else plan.models) for plan in chosen
    ]
    figures = [(plan, models) for plan, models in figures if plan.cells(models)]
    if not rows and not figures:
        raise InputError(
            "nothing of the paper is left under these --table, --model, --dataset, --method and "
            "--values: `mft reproduce --list` says what there is"
        )
    return Plan(rows, figures)


def _narrowed(
    figure: FigurePlan, dataset: str | None, values: Collection[float] | None
) -> FigurePlan:
    return replace(
        figure,
        dataset=dataset or figure.dataset,
        values=None if values is None else frozenset(values),
    )


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
