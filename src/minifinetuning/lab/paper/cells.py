"""The cells of the paper, one a training, by what it varies; and the values that it published."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from minifinetuning.errors import InputError

__all__ = [
    "METHODS",
    "TABLES",
    "PaperCell",
    "Published",
    "paper_cell",
    "published_values",
    "slug",
]

METHODS = {
    "FT": "ft",
    "corrective finetuning": "corrective",
    "single correction": "single_correction",
    "MFT": "mft",
    "Replay": "replay",
    "Replay+MFT": "replay+mft",
    "LoRA": "lora",
    "LoRA+MFT": "lora+mft",
    "DoRA": "dora",
    "DoRA+MFT": "dora+mft",
    "IA3": "ia3",
    "IA3+MFT": "ia3+mft",
    "EWC": "ewc",
}
"""The paper's methods, and each as `mft compare` names it."""

TABLES = (2, 3, 4, 5, 6, 7, 8, 9, 10)

USUAL = {"tau": 0.25, "new_data_fraction": 0.5, "rank": 8, "data_share": 1.0}
"""What section 3.1 says of the knobs."""


@dataclass(frozen=True)
class PaperCell:
    """One training. A knob is None where it is the usual one of section 3.1, or has no meaning.

    `data_share` is the training text as a share of the usual 4M tokens (section 5 has a quarter to
    twice that). Cells of several tables that are the same training are equal.
    """

    model: str
    method: str
    dataset: str
    tau: float | None = None
    new_data_fraction: float | None = None
    rank: int | None = None
    data_share: float | None = None

    @property
    def name(self) -> str:
        """Of its result file: `mft`, `mft-tau0.5`, `dora-rank16`, `ft-data0.25`."""
        return "-".join([METHODS[self.method], *self._knobs("tau", "nu", "rank", "data")])

    def __str__(self) -> str:
        knobs = self._knobs("τ ", "ν ", "rank ", "data ")
        return " · ".join([self.model, self.dataset, self.method, *knobs])

    def knob(self, name: str) -> float:
        """The value of a knob, also where it is the usual one."""
        value = getattr(self, name)
        return USUAL[name] if value is None else value

    def _knobs(self, *names: str) -> list[str]:
        values = (getattr(self, knob) for knob in USUAL)
        knobs = zip(names, values, strict=True)
        return [f"{name}{value:g}" for name, value in knobs if value is not None]


def paper_cell(model: str, method: str, dataset: str, **knobs: float | None) -> PaperCell:
    """The cell of these settings, the same for settings that are the same training.

    `knobs` are some of those in `USUAL`. MFT with tau = 1 and replay with nu = 1 are finetuning.
    Raises InputError for a method that the paper does not have.
    """
    if method not in METHODS:
        raise InputError(f"--method {method} is not known: choose one of {', '.join(METHODS)}")
    for of, knob in (("MFT", "tau"), ("Replay", "new_data_fraction")):
        if method == of and knobs.get(knob) == 1:
            method = "FT"
            del knobs[knob]
    own: Any = {knob: value for knob, value in knobs.items() if value != USUAL[knob]}
    return PaperCell(model, method, dataset, **own)


def slug(name: str) -> str:
    """A name as a folder: `OpenELM 1.1B` is `openelm-1.1b`."""
    return "-".join(name.lower().replace("/", " ").split())


@dataclass(frozen=True)
class Published:
    """A row of a published table: S and DG in %, their ratio; a ratio may be missing there.

    `method` and the knobs are as the table prints them: its tau = 1 is the cell of FT.
    """

    table: int
    cell: PaperCell
    method: str
    specialization: float
    degeneralization: float
    ratio: float | None
    tau: float | None = None
    new_data_fraction: float | None = None
    rank: int | None = None

    @property
    def label(self) -> str:
        """The row as the table prints it: its method, or its knob in the tables of one knob."""
        if self.tau is not None:
            return f"τ = {self.tau:g}"
        if self.new_data_fraction is not None:
            return f"ν = {self.new_data_fraction:.0%}"
        if self.rank is not None:
            return f"r = {self.rank}"
        return self.method

    @property
    def knob(self) -> float | None:
        """The value of what the table varies, where it is not the method."""
        knobs = (self.tau, self.new_data_fraction, self.rank)
        return next((value for value in knobs if value is not None), None)


@cache
def published_values() -> tuple[Published, ...]:
    """All 441, in the order of the tables."""
    text = (files("minifinetuning.lab.paper") / "published.json").read_text("utf-8")
    return tuple(_published(row) for row in json.loads(text))


def _published(row: dict[str, Any]) -> Published:
    knobs = {"tau": row.get("tau"), "new_data_fraction": row.get("nu"), "rank": row.get("rank")}
    return Published(
        row["table"],
        paper_cell(row["model"], row["method"], row["dataset"], **knobs),
        row["method"],
        specialization=row["S"],
        degeneralization=row["DG"],
        ratio=row["ratio"],
        **knobs,
    )
