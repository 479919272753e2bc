"""The cells of a comparison, one after another and each in a process of its own, and the report."""

import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from minifinetuning.errors import InputError
from minifinetuning.files import write_atomically
from minifinetuning.lab.compare.cell import WORKING, Cell
from minifinetuning.lab.compare.cell_run import run_cell
from minifinetuning.lab.compare.comparison import Comparison
from minifinetuning.lab.compare.methods import Method
from minifinetuning.lab.compare.report import write_report
from minifinetuning.lab.compare.rows import rows
from minifinetuning.lab.contents import Content, model_content, text_contents
from minifinetuning.lab.kept_results import KeptResult, remove_results, said_of_others
from minifinetuning.lab.processes import Executor, in_a_process
from minifinetuning.training.folder import report_folder
from minifinetuning.training.texts import to_standard_error

__all__ = ["compare", "measured"]

logger = logging.getLogger(__name__)

_WRITTEN = (
    *("cells", "reference.json", "reference.*.json", WORKING),
    *("comparison.json", "comparison.html", "results.md", "frontier.*", "dynamics.*"),
)
_OLDER = ("cells/*.json", "cell")
"""What a comparison writes, and what tells the folder of one of before version 0.2."""


def compare(
    comparison: Comparison, *, overwrite: bool = False, executor: Executor = in_a_process
) -> dict[str, dict[str, Any]]:
    """Run the cells that are not done yet, write the report, and return its rows by name.

    Each cell's result is written once it is done, so that a comparison that was stopped goes on
    where it was. A cell that fails is named, and the others go on. With `overwrite` cells that are
    done are run again. Raises InputError for input that cannot be used, for a folder that another
    command is writing to, and at the end for failed cells.
    """
    settings = comparison.settings
    folder = settings.folder
    inputs = (settings.model, settings.data, settings.training)
    with report_folder(folder, _WRITTEN, *inputs, older=_OLDER):
        table, failed = measured(comparison, overwrite=overwrite, executor=executor)
        if table:
            report = {"budget": comparison.budget, "rows": table}
            write_atomically(folder / "comparison.json", report)
            write_report(table, comparison.budget, folder)
    if failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise InputError(
            f"{len(failed)} of {len(comparison.cells)} cells failed (what there is of the others "
            f"is in {folder}, and the same command tries again): {reasons}"
        )
    return table


def measured(
    comparison: Comparison, *, overwrite: bool = False, executor: Executor = in_a_process
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """`compare` without its report: the rows by name, and the reasons of the cells that failed."""
    settings = comparison.settings
    _require_general_text(comparison)
    work = _Work.of(comparison)
    places = [*(work.kept(cell) for cell in comparison.cells), work.reference]
    if overwrite:
        for place in places:
            remove_results(place.path)
    missing = [cell for cell in comparison.cells if work.kept(cell).read() is None]
    left = said_of_others(work.kept(cell) for cell in missing)
    if left:
        logger.warning("%s", left)
    # What a blended cell trains on the way need not be trained again.
    missing.sort(key=lambda cell: (cell.seed, cell.unblended is None))
    try:
        failed = _run(missing, work, executor)
    finally:
        shutil.rmtree(settings.working_folder, ignore_errors=True)
    found = [work.kept(cell).read() for cell in comparison.cells]
    results = [result for result in found if result is not None]
    if not results:
        return {}, failed
    reference = work.reference.read()
    if reference is None:
        raise InputError(
            f"{work.reference.path}, which all cells need, is gone: pass --overwrite_output_dir to "
            "run them again"
        )
    return rows(results, reference["scores"], comparison.budget), failed


@dataclass(frozen=True)
class _Work:
    """A comparison, and what its cells are made from, which methods share that read the same."""

    comparison: Comparison
    contents: Mapping[tuple[str, bool], Content]

    @classmethod
    def of(cls, comparison: Comparison) -> "_Work":
        """Tokenize, or have the model write, what the cells then find in the cache; say what."""
        settings = comparison.settings
        said: set[str] = set()

        def say(summary: str) -> None:
            if summary not in said:
                to_standard_error(summary)
            said.add(summary)

        progress = not settings.training.get("disable_tqdm")
        contents = {}
        for replay, ewc in sorted({_read(method) for method in comparison.methods}):
            method = Method("", replay=replay or None, ewc=ewc)
            contents[replay, ewc] = text_contents(
                settings.texts(method, progress=progress, say=say)
            )
        model = model_content(settings.model)
        return cls(comparison, {key: Content(model, texts) for key, texts in contents.items()})

    @property
    def reference(self) -> KeptResult:
        """The scores of the starting model: all methods are measured on the same texts."""
        return self.comparison.settings.reference(next(iter(self.contents.values())))

    def content(self, cell: Cell) -> Content:
        """What a cell is made from."""
        return self.contents[_read(cell.method)]

    def kept(self, cell: Cell) -> KeptResult:
        """The place of a cell's result."""
        return cell.kept(self.comparison.settings, self.content(cell))


def _read(method: Method) -> tuple[str, bool]:
    """By what the texts of methods differ."""
    return method.replay or "", method.ewc


def _require_general_text(comparison: Comparison) -> None:
    data = comparison.settings.data
    for method in comparison.methods:
        if method.needs_general_text and not (data.replay or _is_text(data.general)):
            raise InputError(
                f"--methods {method.name} trains with the help of general text: give --general or "
                "--replay, or leave it out"
            )


def _is_text(general: list[str] | None) -> bool:
    return bool(general) and general != ["self"]


def _run(missing: list[Cell], work: _Work, executor: Executor) -> dict[str, str]:
    """The cells that failed, with the reason."""
    failed: dict[str, str] = {}
    comparison = work.comparison
    done, total = len(comparison.cells) - len(missing), len(comparison.cells)
    if done and missing:
        logger.info("%d of %d cells are done already", done, total)
    start = time.monotonic()
    for number, cell in enumerate(missing):
        place = f"[{done + number + 1}/{total}] {cell.name}"
        result = work.kept(cell).read()
        if result is not None:
            logger.info("%s, trained on the way\n%s", place, _figures(result))
            continue
        elapsed = time.monotonic() - start
        logger.info("%s%s", place, _remaining(elapsed, number, len(missing)))
        reason = executor(partial(run_cell, cell, comparison.settings, work.content(cell)))
        if reason is not None:
            failed[cell.name] = reason
            logger.warning("%s failed: %s", cell.name, reason)
            continue
        result = work.kept(cell).read()
        assert result is not None, "a cell that did not fail has written its result"
        logger.info("%s", _figures(result))
    return failed


def _remaining(seconds: float, done: int, total: int) -> str:
    """How long the rest will take, if it goes on like this; nothing before the first is done."""
    if not done:
        return ""
    minutes = seconds / done * (total - done) / 60
    return f" (about {minutes:.0f} minutes to go)" if minutes >= 1 else ""


def _figures(result: dict[str, Any]) -> str:
    lost = result["degeneralization"]
    said = f"  S {result['specialization']:.2f} %"
    return said if lost is None else f"{said}, DG {lost:.2f} %"
