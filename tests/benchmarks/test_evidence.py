"""What is told of measured cells: the arithmetic by hand, and the documents by the cells."""

import json
import math
from pathlib import Path
from typing import Any

import evidence

from minifinetuning.lab.compare import comparison_summary
from minifinetuning.lab.rows import pooled_rows

ROOT = Path(__file__).parents[2]
COMPARISON = ROOT / "results/comparison"


def result(specialized: float, general: float) -> dict[str, Any]:
    """A result of sequences that are all alike, so that every resample gives the same."""
    return {
        "scores": {
            name: {"negative_log_likelihood": [value] * 3, "tokens": [10] * 3, "forward_kl": None}
            for name, value in (("specialized", specialized), ("general", general))
        },
        "degeneralization": 0.0,
        "seeds": [42],
    }


def test_methods_are_held_against_one_of_them() -> None:
    reference, ft, mft = result(30.0, 20.0), result(28.0, 20.5), result(28.5, 20.1)
    gained = [100 * (1 - math.exp(-shift)) for shift in (0.2, 0.15)]
    lost = [100 * math.expm1(shift) for shift in (0.05, 0.01)]
    more = [gained[0] - gained[1], lost[0] - lost[1], lost[0] / gained[0] - lost[1] / gained[1]]
    *_, row = evidence.beside({"FT": ft, "MFT": mft}, "MFT", reference).splitlines()
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "FT",
        *(f"+{value:.2f} [{value:.2f}, {value:.2f}]" for value in more[:2]),
        f"+{more[2]:.3f} [{more[2]:.3f}, {more[2]:.3f}]",
    ]


def test_the_last_step_is_told_whichever_was_kept() -> None:
    history = [
        {"step": 0, "specialization": 0.0, "degeneralization": 0.0},
        {"step": 8, "specialization": -1.234, "degeneralization": 0.5},
    ]
    *_, row = evidence.last_step({"FT": {"step": 0, "history": history}}).splitlines()
    assert [cell.strip() for cell in row.strip("|").split("|")] == ["FT", "-1.23", "0.50"]


def test_the_evidence_says_what_its_cells_say() -> None:
    told = (ROOT / "docs/evidence.md").read_text("utf-8")
    folder = ROOT / "results/small/smollm2-135m"
    results = {domain: evidence.cells_of(folder / domain) for domain in evidence.DOMAINS}
    tables = [part for part in evidence.sections(results) if part.startswith("|")]
    assert len(tables) == 12
    for table in tables:
        assert table in told


def test_the_comparison_says_what_its_cells_say() -> None:
    comparison = json.loads((COMPARISON / "comparison.json").read_text("utf-8"))
    cells = [json.loads(path.read_text("utf-8")) for path in (COMPARISON / "cells").glob("*.json")]
    order = [row["method"] for row in comparison["rows"].values()]
    cells.sort(key=lambda cell: order.index(cell["method"]))
    reference = json.loads((COMPARISON / "reference.json").read_text("utf-8"))
    table = pooled_rows(cells, reference["scores"], comparison["budget"])
    summary = comparison_summary(table, comparison["budget"])
    assert summary == (COMPARISON / "results.md").read_text("utf-8").rstrip("\n")
    told = (ROOT / "docs/comparison.md").read_text("utf-8")
    for part in summary.split("\n\n"):
        assert part in (told if part.startswith("|") else " ".join(told.split()))
    by_method = {cell["method"]: cell for cell in cells if not cell["method"].endswith("blend")}
    assert evidence.beside(by_method, "replay", reference) in told
