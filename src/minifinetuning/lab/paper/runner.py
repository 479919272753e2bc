"""Runs what a plan lacks: first the references, then the cells that start from them."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from minifinetuning.errors import InputError
from minifinetuning.lab.kept_results import (
    remove_results,
    results_called,
    said_of_others,
)
from minifinetuning.lab.paper.cells import PaperCell, slug
from minifinetuning.lab.paper.datasets import GENERAL, dataset_named
from minifinetuning.lab.paper.reproduction import Reproduction, result_of
from minifinetuning.lab.paper.runs import (
    CellTask,
    ReferenceTask,
    text_sources,
)
from minifinetuning.lab.processes import Schedule, Task
from minifinetuning.training.folder import report_folder

__all__ = [
    "Outcome",
    "kept_folder",
    "missing_cells",
    "missing_references",
    "reproduce",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """The results that there are, and why others failed, by the name of the task."""

    results: dict[PaperCell, dict[str, Any]]
    failed: dict[str, str]

    def require_complete(self) -> None:
        """Raise InputError, with the reasons, where something failed."""
        if self.failed:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self.failed.items())
            raise InputError(
                f"{len(self.failed)} failed, and the same command tries again: {reasons}"
            )


def reproduce(
    reproduction: Reproduction, schedule: Schedule, *, overwrite: bool = False
) -> Outcome:
    """Run the cells of the plan that are not done, and return the results of all that are.

    A cell or reference that fails is named, and the rest goes on. Raises InputError before
    anything runs where an option or a text cannot be used.
    """
    _require_usable(reproduction)
    if overwrite:
        for cell in reproduction.plan.cells:
            remove_results(reproduction.result_path(cell))
    missing = missing_cells(reproduction)
    there = [cell for cell in missing if results_called(reproduction.result_path(cell))]
    if left := said_of_others(reproduction.kept(cell) for cell in there):
        logger.warning("%s", left)
    _fetch_texts(missing, reproduction)
    references = {
        f"reference of {model}": ReferenceTask(model, reproduction)
        for model in missing_references(reproduction, missing)
    }
    failed = _run(references, schedule)
    unready = {name.removeprefix("reference of ") for name in failed}
    tasks = {
        str(cell): CellTask(cell, reproduction) for cell in missing if cell.model not in unready
    }
    failed |= _run(tasks, schedule)
    return Outcome(done_cells(reproduction), failed)


@contextmanager
def kept_folder(reproduction: Reproduction) -> Iterator[None]:
    """Keep the results and the report for this command alone until the block ends.

    Raises InputError where another one is writing there, or where other files are in the way.
    """
    folder = reproduction.report_folder
    models = {slug(cell.model) for cell in reproduction.plan.cells}
    written = ("table-*.md", "figure-*.png", *sorted(models))
    inputs = {
        "corpora": reproduction.corpora,
        "reference": reproduction.reference,
        "model": None if reproduction.other_model is None else reproduction.other_model.hub,
    }
    with report_folder(folder, written, inputs, older=("*/*/*.json", "identity")):
        yield


def missing_cells(reproduction: Reproduction) -> list[PaperCell]:
    """The cells of the plan without a result. Raises InputError for damaged ones."""
    return [cell for cell in reproduction.plan.cells if result_of(cell, reproduction) is None]


def done_cells(reproduction: Reproduction) -> dict[PaperCell, dict[str, Any]]:
    """The results that there are."""
    found = {cell: result_of(cell, reproduction) for cell in reproduction.plan.cells}
    return {cell: result for cell, result in found.items() if result is not None}


def missing_references(reproduction: Reproduction, cells: list[PaperCell]) -> list[str]:
    """The models of these cells whose reference has still to be prepared."""
    return [
        model
        for model in dict.fromkeys(cell.model for cell in cells)
        if not reproduction.reference_folder(model).exists()
    ]


def _run(tasks: Mapping[str, Task], schedule: Schedule) -> dict[str, str]:
    failed = {}
    for name, reason in schedule(tasks) if tasks else ():
        if reason is not None:
            failed[name] = reason
            logger.warning("%s failed: %s", name, reason)
    return failed


def _require_usable(reproduction: Reproduction) -> None:
    """What can be known before hours are spent."""
    reproduction.machine.batches(reproduction.protocol.sequences)
    cells = reproduction.plan.cells
    if reproduction.reference is not None and len({cell.model for cell in cells}) > 1:
        raise InputError("--reference is the checkpoint of one model: choose it with --model")
    if reproduction.reference is not None and not reproduction.reference.is_dir():
        raise InputError(f"--reference {reproduction.reference} is no folder: give a checkpoint")


def _fetch_texts(cells: list[PaperCell], reproduction: Reproduction) -> None:
    """Here and once, before tasks that run side by side would each fetch the same."""
    for model, dataset in dict.fromkeys((cell.model, cell.dataset) for cell in cells):
        for wanted in (dataset_named(dataset), GENERAL):
            text_sources(wanted, model, reproduction)
