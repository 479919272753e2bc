"""The values that the paper published: tables 2 to 10, each with the cell that it came from."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from minifinetuning.lab.paper.cells import PaperCell, paper_cell

__all__ = ["TABLES", "Published", "published_values"]

TABLES = (2, 3, 4, 5, 6, 7, 8, 9, 10)


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
    tau, share, rank = (row.get(name) for name in ("tau", "nu", "rank"))
    cell = paper_cell(
        *(row["model"], row["method"], row["dataset"]),
        tau=tau,
        new_data_fraction=share,
        rank=rank,
    )
    values = (row["S"], row["DG"], row["ratio"])
    return Published(row["table"], cell, row["method"], *values, tau, share, rank)
