"""The paper's claims on measured cells: tables with intervals, and pictures.

    mft reproduce … --output_dir results        # measures the cells
    python benchmarks/evidence.py               # tells what they say

Reads the results that `mft reproduce` left in one model's folder, and writes `evidence.md` and the
pictures beside it.
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minifinetuning.files import write_atomically
from minifinetuning.lab.rows import paired_difference
from minifinetuning.report import comparison_table, difference_table, save_frontier
from minifinetuning.report.pictures import saved_figure
from minifinetuning.report.tables import markdown_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESULTS = Path(__file__).parents[1] / "results"

DOMAINS = ("pubmed", "openwebmath")
METHODS = {
    "ft": "FT",
    "mft": "MFT",
    "lora": "LoRA",
    "lora+mft": "LoRA+MFT",
    "replay": "Replay",
    "replay+mft": "Replay+MFT",
}
RUNGS = {
    "ft": "FT",
    "corrective": "corrective finetuning",
    "single_correction": "single correction",
    "mft": "MFT",
}
TAUS = {0.0: "mft-tau0", 0.1: "mft-tau0.1", 0.25: "mft", 0.5: "mft-tau0.5", 1.0: "ft"}
BUDGETS = ("-data0.25", "-data0.5", "")
COLOURS = {"FT": "#D55E00", "MFT": "#0072B2"}

Result = Mapping[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS / "small/smollm2-135m")
    folder = parser.parse_args().results
    results = {domain: cells_of(folder / domain) for domain in DOMAINS}
    write_atomically(folder / "evidence.md", "\n\n".join(sections(results)) + "\n")
    for domain, cells in results.items():
        save_frontier(named(cells, METHODS), folder / f"{domain}.png")
    save_knobs(results["pubmed"], folder / "knobs.png")


def cells_of(folder: Path) -> dict[str, Result]:
    """The results of a domain by their names, and the `reference` that all started from."""
    return {
        path.stem: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))
    }


def sections(results: Mapping[str, Mapping[str, Result]]) -> Iterable[str]:
    """The tables, each under its heading."""
    medical, mathematical = (results[domain] for domain in DOMAINS)
    start = medical["reference"]
    methods, rungs = named(medical, METHODS), named(medical, RUNGS)
    yield "## Methods on medical text"
    yield comparison_table(methods)
    yield beside(methods, "MFT", start)
    yield "## Methods on mathematical text"
    methods = named(mathematical, METHODS)
    yield comparison_table(methods)
    yield last_step(methods)
    yield "## Ablation (table 3) on medical text"
    yield comparison_table(rungs)
    yield beside(rungs, "MFT", start)
    yield "## τ (table 8) on medical text"
    yield comparison_table(named(medical, {cell: f"τ = {tau:g}" for tau, cell in TAUS.items()}))
    yield "## Scarce data (section 5) on medical text"
    amounts = named(medical, budgets(medical))
    yield comparison_table(amounts)
    yield last_step(amounts)
    for ft, mft in zip([*amounts][::2], [*amounts][1::2], strict=True):
        yield beside({name: amounts[name] for name in (mft, ft)}, mft, start)


def last_step(results: Mapping[str, Result]) -> str:
    """S and DG at the last step, whichever was kept: what training on would have come to."""
    rows = [["at the last step", "S %", "DG %"]]
    for name, result in results.items():
        last = result["history"][-1]
        rows.append([name, f"{last['specialization']:z.2f}", f"{last['degeneralization']:z.2f}"])
    return markdown_table(rows)


def named(cells: Mapping[str, Result], names: Mapping[str, str]) -> dict[str, Result]:
    """The cells of `names` under the names that a person reads."""
    return {name: cells[cell] for cell, name in names.items()}


def budgets(cells: Mapping[str, Result]) -> dict[str, str]:
    """The cells over the amounts of text, smallest first, FT before MFT."""
    return {
        f"{method}{ending}": f"{method.upper()}, {tokens(cells[f'{method}{ending}']):,} tokens"
        for ending in BUDGETS
        for method in ("ft", "mft")
    }


def tokens(result: Result) -> int:
    """The tokens of the training text of a cell."""
    count: int = result["data"]["specialized"]["train_tokens"]
    return count


def beside(results: Mapping[str, Result], ours: str, reference: Result) -> str:
    """All the results held against the one called `ours`."""
    differing = {}
    for name, result in results.items():
        if name != ours:
            difference = paired_difference([result], [results[ours]], reference["scores"])
            assert difference is not None, "results of one seed"
            differing[name] = {**result, "difference": {"from": ours, **difference}}
    return difference_table(differing) or ""


def save_knobs(cells: Mapping[str, Result], path: Path) -> None:
    """S and DG over τ, and over the amount of training text."""
    with saved_figure(path, 10.4, 6.6) as figure:
        panels = figure.subplots(2, 2)
        for row, quantity, label in (
            (panels[0], "specialization", "S %"),
            (panels[1], "degeneralization", "DG %"),
        ):
            dress(row[0], f"{label} over τ (1 is FT)", "τ")
            draw_line(row[0], [*TAUS], [cells[cell] for cell in TAUS.values()], quantity, "MFT")
            dress(row[1], f"{label} over training tokens, as many steps for each", "tokens")
            for method in ("FT", "MFT"):
                line = [cells[f"{method.lower()}{ending}"] for ending in BUDGETS]
                draw_line(row[1], [tokens(cell) for cell in line], line, quantity, method)
        panels[0][1].legend(frameon=False, fontsize=9)


def draw_line(
    axes: "Axes", x: Sequence[float], cells: Sequence[Result], quantity: str, name: str
) -> None:
    y = [cell[quantity] for cell in cells]
    bounds = [cell["intervals"][quantity] for cell in cells]
    below = [value - low for value, (low, _) in zip(y, bounds, strict=True)]
    above = [high - value for value, (_, high) in zip(y, bounds, strict=True)]
    axes.errorbar(
        x, y, yerr=[below, above], fmt="o-", color=COLOURS[name], elinewidth=0.9, label=name
    )


def dress(axes: "Axes", title: str, across: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.set_xlabel(across, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(color="#efefef", linewidth=0.8)
    axes.axhline(0, color="#d9d9d9", zorder=1)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
