"""Which cells a table or a figure of the paper is made of."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from minifinetuning.errors import InputError
from minifinetuning.experiments.paper.cells import PaperCell, paper_cell
from minifinetuning.experiments.paper.published import TABLES, Published, published_values

__all__ = ["FIGURES", "FigurePlan", "Plan", "Series", "plan_of", "stand_in"]

TAUS = tuple(tenth / 10 for tenth in range(11))
NEW_DATA_FRACTIONS = tuple(tenth / 10 for tenth in range(1, 11))
RANKS = (1, 4, 8, 16, 24, 32, 64, 128, 160, 192, 256)
DATA_SHARES = (0.25, 0.5, 1.0, 2.0)

FULL_RANK = 200
"""The rank that the paper's figures put at 1."""


@dataclass(frozen=True)
class Series:
    """A line of a figure: cells over a knob. `x` are the knob's values, ranks as shares of 200."""

    name: str
    x: tuple[float, ...]
    cells: tuple[PaperCell, ...]


@dataclass(frozen=True)
class FigurePlan:
    """A figure: what it shows, and its lines for a model. `over_steps` are lines over training."""

    number: int
    title: str
    models: tuple[str, ...]
    series: Callable[[str], list[Series]]
    over_steps: bool = False

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
    return Series("DoRA, r / 200", (*(rank / FULL_RANK for rank in RANKS),), (*cells,))


def _scarcity(model: str) -> list[Series]:
    return [
        Series(
            method,
            DATA_SHARES,
            (*(paper_cell(model, method, "PubMed", data_share=share) for share in DATA_SHARES),),
        )
        for method in ("FT", "MFT")
    ]


_OPENELM = ("OpenELM 270M", "OpenELM 450M", "OpenELM 1.1B")

FIGURES = {
    figure.number: figure
    for figure in (
        FigurePlan(
            2,
            "S and DG over the steps of finetuning and minifinetuning, by training tokens",
            ("OpenELM 270M",),
            _scarcity,
            over_steps=True,
        ),
        FigurePlan(
            4,
            "MFT of increasing τ, replay of increasing ν, DoRA of increasing rank",
            ("OpenELM 1.1B",),
            lambda model: [part(model, "Pile of Law") for part in (_targets, _fractions, _ranks)],
        ),
        FigurePlan(
            5,
            "S, DG and DG/S over the steps of finetuning and minifinetuning, by training tokens",
            ("OpenELM 270M",),
            _scarcity,
            over_steps=True,
        ),
        FigurePlan(
            6,
            "Replay of increasing ν against MFT of increasing τ",
            _OPENELM,
            lambda model: [part(model, "Pile of Law") for part in (_targets, _fractions)],
        ),
        FigurePlan(
            7,
            "DoRA of increasing rank against MFT of increasing τ",
            ("OpenELM 1.1B",),
            lambda model: [part(model, "OpenWebMath") for part in (_targets, _ranks)],
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
) -> Plan:
    """The rows and figures asked for; where neither a table nor a figure is named, all of them.

    A `model` that the paper does not have stands in for the first one of each table, and is that
    of each figure. `dataset` and `method` are names of the paper. Raises InputError for a number
    that no table or figure has, and where nothing is left.
    """
    _require_known("--table", table, TABLES)
    _require_known("--figure", figure, tuple(FIGURES))
    everything = table is None and figure is None
    numbers = TABLES if everything else () if table is None else (table,)
    rows = [row for number in numbers for row in _rows(number, model)]
    rows = [
        row
        for row in rows
        if dataset in (None, row.cell.dataset) and method in (None, row.method, row.cell.method)
    ]
    chosen = FIGURES.values() if everything else [] if figure is None else [FIGURES[figure]]
    figures = [(plan, (model,) if model else plan.models) for plan in chosen]
    if (dataset or method) and figure is None:
        figures = []
    if not rows and not figures:
        raise InputError(
            "nothing of the paper is left under these --table, --model, --dataset and --method: "
            "`mft reproduce --list` says what there is"
        )
    return Plan(rows, figures)


def stand_in(rows: Sequence[Published]) -> str:
    """The model of a table that another stands in for: the first one that it lists."""
    return rows[0].cell.model


def _rows(number: int, model: str | None) -> list[Published]:
    rows = [row for row in published_values() if row.table == number]
    if model is None:
        return rows
    known = {row.cell.model for row in published_values()}
    if model in known:
        return [row for row in rows if row.cell.model == model]
    first = stand_in(rows)
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
