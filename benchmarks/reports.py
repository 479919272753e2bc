"""What a benchmark leaves behind: one JSON with versions and device, one table, one plot."""

import argparse
import datetime
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from harness import physical_cores

from minifinetuning.files import replacing, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"

_PACKAGES = (
    "minifinetuning",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "nvidia-modelopt",
    "liger-kernel",
    "cut-cross-entropy",
    "trl",
    "triton",
)

# Okabe and Ito's colours, which readers with any colour vision can tell apart: ours is blue, FT
# orange, as in the project's other pictures.
BLUE, ORANGE = "#0072B2", "#D55E00"
OTHERS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8c6d31", "#7f7f7f")
FAINT, GREY = "#d9d9d9", "#6b6b6b"


@dataclass(frozen=True)
class Report:
    """One run of a benchmark. `text` stands above the table, `notes` below it, one line each.

    The first `words` columns of the table hold words, the others figures, and the reason where
    there is no figure.
    """

    name: str
    title: str
    text: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int
    notes: Sequence[str]
    options: dict[str, Any]
    cells: Any
    draw: "Callable[[Figure], None]"
    figure_size: tuple[float, float]

    def write(self, folder: Path) -> str:
        """Write NAME.json, NAME.md and NAME.png into `folder`; returns the table's text."""
        circumstances = self._circumstances()
        write_atomically(folder / f"{self.name}.json", {**circumstances, "cells": self.cells})
        text = self._markdown(circumstances)
        with replacing(folder / f"{self.name}.png") as temporary:
            figure = _new_figure(*self.figure_size)
            self.draw(figure)
            figure.savefig(temporary, format="png", dpi=150)
        write_atomically(folder / f"{self.name}.md", text)
        return text

    def _circumstances(self) -> dict[str, Any]:
        return {
            "benchmark": self.name,
            "date": datetime.date.today().isoformat(),
            "device": device_name(self.options["device"]),
            "threads": torch.get_num_threads(),
            "versions": versions(),
            "options": self.options,
        }

    def _markdown(self, circumstances: dict[str, Any]) -> str:
        installed = [f"{name} {text}" for name, text in circumstances["versions"].items() if text]
        threads = circumstances["threads"]
        device = f"{circumstances['device']}, {threads} thread{'s' if threads > 1 else ''}"
        parts = [
            f"# {self.title}",
            self.text,
            f"![{self.title}]({self.name}.png)",
            markdown_table([self.header, *self.rows], self.words),
            *(["\n".join(f"- {note}" for note in self.notes)] if self.notes else []),
            f"{circumstances['date']}, {device}; {', '.join(installed)}. "
            f"All figures: [{self.name}.json]({self.name}.json).",
        ]
        return "\n\n".join(parts)


def markdown_table(rows: Sequence[Sequence[str]], words: int) -> str:
    """Rows of cells, the header first; the first `words` columns flush left, the others right.

    A row shorter than the header ends in a reason, which would stretch a column of figures.
    """
    full = [row for row in rows if len(row) == len(rows[0])]
    widths = [max(3, *map(len, column)) for column in zip(*full, strict=True)]
    rule = ["-" * width if i < words else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    lines = []
    for row in (rows[0], rule, *rows[1:]):
        padded = [
            cell.ljust(width) if i < words or len(row) < len(widths) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        lines.append(f"| {' | '.join(padded)} |" + " |" * (len(widths) - len(row)))
    return "\n".join(lines)


def common_options(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    has_gpu = torch.cuda.is_available()
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if has_gpu else "cpu")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="of matrix products (by autocast); auto is bfloat16 where the device is fast at it",
    )
    parser.add_argument("--threads", type=int, default=physical_cores(), help="of the CPU")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--name", help="of the result's files, in place of the benchmark's own")
    return parser


def options_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options as they go into the JSON."""
    places = ("output", "name")
    return {name: value for name, value in vars(arguments).items() if name not in places}


def versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def device_name(device: str) -> str:
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, CPU"


def gibibytes(count: int | None) -> str:
    if count is None:
        return "-"
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.0f} MiB"


def seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def finish(axes: "Axes", title: str, note: str = "") -> None:
    """The look that all pictures of the project share."""
    axes.set_title(title, loc="left", fontweight="bold", fontsize=10.5, pad=22 if note else 8)
    if note:
        axes.annotate(
            note, (0, 1), (0, 7), "axes fraction", "offset points", color=GREY, fontsize=8.5
        )
    axes.grid(color="#efefef", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def finish_log_axis(axis: "Axis") -> None:
    """Plain numbers at 1, 2 and 5 of each power of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_locator(NullLocator())


def _new_figure(width: float, height: float) -> "Figure":
    """A figure of `width` by `height` inches that never meets pyplot, so it needs no screen."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
