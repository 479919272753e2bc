"""What `mft reproduce` runs: the references first, then the cells that start from them."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from minifinetuning.data.config import DataConfig, GeneralConfig
from minifinetuning.errors import InputError
from minifinetuning.files import write_atomically
from minifinetuning.lab.cells import (
    Cell,
    KeptResult,
    make_once,
    remove_results,
    run_cells,
    run_tasks,
    warn_of_others,
)
from minifinetuning.lab.digests import text_digests, validation_digests
from minifinetuning.lab.method_run import (
    WORKING,
    MethodRun,
    Settings,
    chosen_options,
    trained_and_measured,
)
from minifinetuning.lab.methods import parsed_methods
from minifinetuning.lab.paper.cells import METHODS, PaperCell, slug
from minifinetuning.lab.paper.datasets import GENERAL, dataset_named
from minifinetuning.lab.paper.reproduction import Reproduction
from minifinetuning.lab.processes import Executor
from minifinetuning.models.config import ModelConfig
from minifinetuning.training.config import ComparisonConfig
from minifinetuning.training.folder import report_folder
from minifinetuning.training.record import MEASURE, without_places
from minifinetuning.training.reference import ReferenceConfig, prepare_reference

__all__ = [
    "CellTask",
    "Outcome",
    "ReferenceTask",
    "kept_folder",
    "missing_cells",
    "missing_references",
    "reproduce",
]


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
    reproduction: Reproduction, executor: Executor, *, overwrite: bool = False
) -> Outcome:
    """Run the cells of the plan that are not done, and return the results of all that are.

    A cell or reference that fails is named, and the rest goes on. Raises InputError before
    anything runs where an option or a text cannot be used.
    """
    _require_usable(reproduction)
    kept = {cell: reproduction.kept(cell) for cell in reproduction.plan.cells}
    if overwrite:
        remove_results(kept.values())
    missing = missing_cells(reproduction)
    warn_of_others(kept[cell] for cell in missing)
    # Here and once, before tasks that run side by side would each fetch the same.
    for model, dataset in dict.fromkeys((cell.model, cell.dataset) for cell in missing):
        for wanted in (dataset_named(dataset), GENERAL):
            reproduction.text(wanted, model)
    references = {
        f"reference of {model}": ReferenceTask(model, reproduction)
        for model in missing_references(reproduction, missing)
    }
    failed = run_tasks(references, executor)
    ready = [
        Cell(str(cell), kept[cell], CellTask(cell, reproduction))
        for cell in missing
        if f"reference of {cell.model}" not in failed
    ]
    failed |= run_cells(ready, executor, done=len(kept) - len(missing))
    found = {cell: place.read() for cell, place in kept.items()}
    return Outcome({cell: result for cell, result in found.items() if result is not None}, failed)


def missing_cells(reproduction: Reproduction) -> list[PaperCell]:
    """The cells of the plan without a result. Raises InputError for damaged ones."""
    return [cell for cell in reproduction.plan.cells if reproduction.kept(cell).read() is None]


def missing_references(reproduction: Reproduction, cells: list[PaperCell]) -> list[str]:
    """The models of these cells whose reference has still to be prepared."""
    return [
        model
        for model in dict.fromkeys(cell.model for cell in cells)
        if not reproduction.reference_folder(model).exists()
    ]


def _require_usable(reproduction: Reproduction) -> None:
    """What can be known before hours are spent."""
    reproduction.batches()
    reference = reproduction.reference
    if reference is None:
        return
    if len({cell.model for cell in reproduction.plan.cells}) > 1:
        raise InputError("--reference is the checkpoint of one model: choose it with --model")
    if not reference.is_dir():
        raise InputError(f"--reference {reference} is no folder: give a checkpoint")


@contextmanager
def kept_folder(reproduction: Reproduction) -> Iterator[None]:
    """Keep the results and the report for this command alone until the block ends.

    Raises InputError where another one is writing there, or where other files are in the way.
    """
    models = {slug(cell.model) for cell in reproduction.plan.cells}
    written = ("table-*.md", "figure-*.png", *sorted(models))
    inputs = {
        "corpora": reproduction.corpora,
        "reference": reproduction.reference,
        "model": None if reproduction.other_model is None else reproduction.other_model.hub,
    }
    older = ("*/*/*.json", "identity")
    with report_folder(reproduction.report_folder, written, inputs, older=older):
        yield


@dataclass(frozen=True)
class ReferenceTask:
    """Prepares the reference of a model: light tuning on the general text, once for all cells."""

    model: str
    reproduction: Reproduction

    def __call__(self) -> None:
        """Write the checkpoint into the cache, and its figures beside the results."""
        folder = self.reproduction.reference_folder(self.model)
        # Two commands may be in need of the same one.
        make_once(folder, folder.exists, self._prepare)
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        write_atomically(self.reproduction.model_folder(self.model) / "reference.json", metrics)

    def _prepare(self) -> None:
        reproduction, protocol = self.reproduction, self.reproduction.protocol
        folder = reproduction.reference_folder(self.model)
        size, passes = reproduction.batches()
        # Beside its place until it is whole: a folder that exists is a finished reference.
        staged = folder.with_name(folder.name + ".incomplete")
        shutil.rmtree(staged, ignore_errors=True)
        prepare_reference(
            reproduction.starting_model(self.model),
            protocol.reference_adapter_config,
            GeneralConfig(
                general=reproduction.text(GENERAL, self.model),
                train_tokens=str(protocol.reference_tokens),
                validation_tokens=str(protocol.validation_tokens),
                sequence_length=protocol.sequence_length,
            ),
            ReferenceConfig(
                output_dir=str(staged),
                learning_rate=protocol.reference_learning_rate,
                per_device_train_batch_size=size,
                gradient_accumulation_steps=passes,
                gradient_checkpointing=reproduction.gradient_checkpointing,
                bf16=reproduction.bf16,
                seed=reproduction.seed,
            ),
            keep_checkpoints=False,
        )
        staged.rename(folder)


@dataclass(frozen=True)
class CellTask:
    """Trains and measures one cell of the paper, and writes its result."""

    cell: PaperCell
    reproduction: Reproduction

    def __call__(self) -> None:
        """Raises InputError and TrainingDivergedError as training does."""
        kept, settings = self.reproduction.kept(self.cell), self.settings
        (method,) = parsed_methods(METHODS[self.cell.method])
        rate = self.reproduction.protocol.learning_rate_of(self.cell.method)
        run = MethodRun(method, rate, self.reproduction.seed)

        def make() -> None:
            texts = settings.texts(method)
            start = self._starting_scores(settings, text_digests(texts))
            try:
                ((_, result),) = trained_and_measured(run, settings, texts, start)
            finally:
                shutil.rmtree(settings.folder, ignore_errors=True)
            kept.write(without_places(result))

        make_once(settings.folder, lambda: kept.read() is not None, make)

    def _starting_scores(self, settings: Settings, texts: dict[str, str]) -> KeptResult:
        """Whatever is varied, a model starts with the same scores on the same texts."""
        identity = {
            "measure": MEASURE,
            "reference": self.reproduction.reference_digest(self.cell.model),
            "dtype": self.reproduction.dtype,
            "bf16": settings.training["bf16"],
            "texts": validation_digests(texts),
        }
        path = self.reproduction.result_path(self.cell).with_name("reference.json")
        return KeptResult(path, lambda: identity)

    @property
    def settings(self) -> Settings:
        """The cell in the terms of a comparison of one method."""
        cell, reproduction = self.cell, self.reproduction
        protocol = reproduction.protocol
        size, passes = reproduction.batches()
        path = reproduction.result_path(cell)
        folder = path.with_name(f"{WORKING}-{path.stem}")
        training = ComparisonConfig(
            output_dir=str(folder),
            tau=cell.knob("tau"),
            new_data_fraction=cell.knob("new_data_fraction"),
            ewc_lambda=protocol.ewc_lambda,
            max_steps=protocol.steps,
            # Steps: a share of 1.0 would be taken for every step.
            eval_steps=max(1, protocol.steps // protocol.evaluations),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=passes,
            gradient_checkpointing=reproduction.gradient_checkpointing or None,
            bf16=reproduction.bf16,
            seed=reproduction.seed,
        )
        return Settings(
            ModelConfig(str(reproduction.reference_folder(cell.model)), dtype=reproduction.dtype),
            DataConfig(
                data=reproduction.text(dataset_named(cell.dataset), cell.model),
                general=reproduction.text(GENERAL, cell.model),
                train_tokens=str(protocol.tokens_of(cell)),
                validation_tokens=str(protocol.validation_tokens),
                sequence_length=protocol.sequence_length,
            ),
            int(cell.knob("rank")),
            chosen_options(training),
            folder,
        )
