"""The cells of a comparison, one after another and each in a process of its own, and the report."""

import json
import logging
import shutil
import time
from functools import partial
from typing import Any

from minifinetuning.errors import InputError
from minifinetuning.experiments.compare.cell import Cell, result_of
from minifinetuning.experiments.compare.cell_run import run_cell
from minifinetuning.experiments.compare.comparison import Comparison
from minifinetuning.experiments.compare.methods import Method
from minifinetuning.experiments.compare.report import write_report
from minifinetuning.experiments.compare.rows import rows
from minifinetuning.experiments.processes import Executor, in_a_process
from minifinetuning.experiments.texts import to_standard_error
from minifinetuning.files import write_atomically

__all__ = ["compare", "measured"]

logger = logging.getLogger(__name__)


def compare(
    comparison: Comparison, *, overwrite: bool = False, executor: Executor = in_a_process
) -> dict[str, dict[str, Any]]:
    """Run the cells that are not done yet, write the report, and return its rows by name.

    Each cell's result is written once it is done, so that a comparison that was stopped goes on
    where it was. A cell that fails is named, and the others go on. Raises InputError for input that
    cannot be used, for a folder that holds another comparison, and at the end for failed cells.
    """
    table, failed = measured(comparison, overwrite=overwrite, executor=executor)
    folder = comparison.settings.folder
    if table:
        write_atomically(folder / "comparison.json", {"budget": comparison.budget, "rows": table})
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
    if overwrite:
        for name in ("cells", "runs"):
            shutil.rmtree(settings.folder / name, ignore_errors=True)
        settings.reference.unlink(missing_ok=True)
    missing = [cell for cell in comparison.cells if result_of(cell, settings) is None]
    # What a blended cell trains on the way need not be trained again.
    missing.sort(key=lambda cell: (cell.seed, cell.unblended is None))
    if missing:
        _read_texts_once(comparison)
    failed = _run(missing, comparison, executor)
    found = [result_of(cell, settings) for cell in comparison.cells]
    results = [result for result in found if result is not None]
    if not results:
        return {}, failed
    reference = json.loads(settings.reference.read_text(encoding="utf-8"))
    return rows(results, reference["scores"], comparison.budget), failed


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


def _read_texts_once(comparison: Comparison) -> None:
    """Tokenize, or have the model write, what the cells then find in the cache; and say what."""
    settings = comparison.settings
    said: set[str] = set()

    def say(summary: str) -> None:
        if summary not in said:
            to_standard_error(summary)
        said.add(summary)

    progress = not settings.training.get("disable_tqdm")
    for replay, ewc in sorted({(method.replay or "", method.ewc) for method in comparison.methods}):
        settings.texts(Method("", replay=replay or None, ewc=ewc), progress=progress, say=say)


def _run(missing: list[Cell], comparison: Comparison, executor: Executor) -> dict[str, str]:
    """The cells that failed, with the reason."""
    failed: dict[str, str] = {}
    done, total = len(comparison.cells) - len(missing), len(comparison.cells)
    if done and missing:
        logger.info("%d of %d cells are done already", done, total)
    start = time.monotonic()
    for number, cell in enumerate(missing):
        place = f"[{done + number + 1}/{total}] {cell.name}"
        result = result_of(cell, comparison.settings)
        if result is not None:
            logger.info("%s, trained on the way\n%s", place, _figures(result))
            continue
        elapsed = time.monotonic() - start
        logger.info("%s%s", place, _remaining(elapsed, number, len(missing)))
        reason = executor(partial(run_cell, cell, comparison.settings))
        if reason is not None:
            failed[cell.name] = reason
            logger.warning("%s failed: %s", cell.name, reason)
            continue
        result = result_of(cell, comparison.settings)
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
