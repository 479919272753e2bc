"""What a cell of the paper, and the reference that it starts from, are as runs."""

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from minifinetuning.data.config import DataConfig, GeneralConfig
from minifinetuning.errors import InputError
from minifinetuning.files import cache_folder, claimed, write_atomically
from minifinetuning.lab.compare.cell import WORKING, Cell, Settings, chosen_options
from minifinetuning.lab.compare.cell_run import measured
from minifinetuning.lab.compare.methods import parsed_methods
from minifinetuning.lab.compare.scores import scores_from, scores_record
from minifinetuning.lab.contents import measured_texts, text_contents
from minifinetuning.lab.kept_results import KeptResult
from minifinetuning.lab.paper.cells import (
    METHODS,
    USUAL_NEW_DATA_FRACTION,
    USUAL_RANK,
    USUAL_TAU,
    PaperCell,
)
from minifinetuning.lab.paper.datasets import (
    GENERAL,
    PaperDataset,
    dataset_named,
    hub_sample,
    local_text,
)
from minifinetuning.lab.paper.models import TINY
from minifinetuning.lab.paper.reproduction import Reproduction
from minifinetuning.lab.paper.tiny import tiny_model
from minifinetuning.models.config import ModelConfig
from minifinetuning.models.loading import load_tokenizer
from minifinetuning.training.config import ComparisonConfig, ReferenceConfig
from minifinetuning.training.provenance import MEASURE, without_places
from minifinetuning.training.reference import prepare_reference

__all__ = ["CellTask", "ReferenceTask", "text_sources"]

_SECONDS_BETWEEN_LOOKS = 1.0


@dataclass(frozen=True)
class ReferenceTask:
    """Prepares the reference of a model: light tuning on the general text, once for all cells."""

    model: str
    reproduction: Reproduction

    def __call__(self) -> None:
        """Write the checkpoint into the cache, and its figures beside the results."""
        folder = self.reproduction.reference_folder(self.model)
        folder.parent.mkdir(parents=True, exist_ok=True)
        while not folder.exists():
            # Two commands may be in need of the same one: only one of them prepares it.
            with claimed(folder) as mine:
                if mine and not folder.exists():
                    self._prepare(folder)
            if not mine:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
        target = self.reproduction.model_folder(self.model) / "reference.json"
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        write_atomically(target, metrics)

    def _prepare(self, folder: Path) -> None:
        reproduction, protocol = self.reproduction, self.reproduction.protocol
        size, passes = reproduction.machine.batches(protocol.sequences)
        # Beside its place until it is whole: a folder that exists is a finished reference.
        staged = folder.with_name(folder.name + ".incomplete")
        shutil.rmtree(staged, ignore_errors=True)
        prepare_reference(
            _starting_model(self.model, reproduction),
            protocol.reference_adapter_config,
            GeneralConfig(
                general=text_sources(GENERAL, self.model, reproduction),
                train_tokens=str(protocol.reference_tokens),
                validation_tokens=str(protocol.validation_tokens),
                sequence_length=protocol.sequence_length,
            ),
            ReferenceConfig(
                output_dir=str(staged),
                learning_rate=protocol.reference_learning_rate,
                per_device_train_batch_size=size,
                gradient_accumulation_steps=passes,
                gradient_checkpointing=reproduction.machine.gradient_checkpointing,
                bf16=reproduction.machine.bf16,
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
        cell, reproduction = self.cell, self.reproduction
        settings = cell_settings(cell, reproduction)
        (method,) = parsed_methods(METHODS[cell.method])
        rate = reproduction.protocol.learning_rate_of(cell.method)
        texts = settings.texts(method, progress=False, say=_nothing)
        start = _starting_scores(cell, settings, text_contents(texts), reproduction)
        known = start.read()
        try:
            run = measured(
                Cell(method, rate, reproduction.seed),
                settings,
                texts,
                None if known is None else scores_from(known["scores"]),
            )
        finally:
            shutil.rmtree(settings.folder, ignore_errors=True)
        if known is None:
            start.write({"scores": scores_record(run.reference)})
        ((_, result),) = run.results
        reproduction.kept(cell).write(without_places(result))


def _nothing(summary: str) -> None:
    """Where many cells read the same, it is said once."""


def _starting_scores(
    cell: PaperCell, settings: Settings, texts: dict[str, str], reproduction: Reproduction
) -> KeptResult:
    """Whatever is varied, a model starts with the same scores on the same texts."""
    identity = {
        "measure": MEASURE,
        "reference": reproduction.reference_content(cell.model),
        "dtype": reproduction.machine.dtype,
        "bf16": settings.training["bf16"],
        "texts": measured_texts(texts),
    }
    return KeptResult(reproduction.result_path(cell).with_name("reference.json"), identity)


def cell_settings(cell: PaperCell, reproduction: Reproduction) -> Settings:
    """The run of a cell in the terms of a comparison of one method."""
    protocol, machine = reproduction.protocol, reproduction.machine
    size, passes = machine.batches(protocol.sequences)
    path = reproduction.result_path(cell)
    folder = path.with_name(f"{WORKING}-{path.stem}")
    share = cell.new_data_fraction
    training = ComparisonConfig(
        output_dir=str(folder),
        tau=USUAL_TAU if cell.tau is None else cell.tau,
        new_data_fraction=USUAL_NEW_DATA_FRACTION if share is None else share,
        ewc_lambda=protocol.ewc_lambda,
        max_steps=protocol.steps,
        # Steps: a share of 1.0 would be taken for every step.
        eval_steps=max(1, protocol.steps // protocol.evaluations),
        per_device_train_batch_size=size,
        gradient_accumulation_steps=passes,
        gradient_checkpointing=machine.gradient_checkpointing or None,
        bf16=machine.bf16,
        seed=reproduction.seed,
    )
    return Settings(
        ModelConfig(str(reproduction.reference_folder(cell.model)), dtype=machine.dtype),
        DataConfig(
            data=text_sources(dataset_named(cell.dataset), cell.model, reproduction),
            general=text_sources(GENERAL, cell.model, reproduction),
            train_tokens=str(protocol.tokens_of(cell)),
            validation_tokens=str(protocol.validation_tokens),
            sequence_length=protocol.sequence_length,
        ),
        USUAL_RANK if cell.rank is None else cell.rank,
        chosen_options(training),
        folder,
    )


def _starting_model(name: str, reproduction: Reproduction) -> ModelConfig:
    """The published weights, before the reference is prepared."""
    model = reproduction.model(name)
    place = model.hub
    if place == TINY:
        if reproduction.corpora is None:
            raise InputError(
                f"{GENERAL.name} can only be streamed where a tokenizer counts its tokens, and "
                f"--model {TINY} learns its own: pass --corpora DIR"
            )
        general = [str(local_text(GENERAL, reproduction.corpora))]
        place = str(tiny_model(general, cache_folder(), reproduction.seed))
    return ModelConfig(place, dtype=reproduction.machine.dtype, tokenizer=model.tokenizer)


def text_sources(dataset: PaperDataset, model: str, reproduction: Reproduction) -> list[str]:
    """The text of a dataset, the same for all cells of a model, whatever their budget.

    It is fetched where it is not here yet. Raises InputError where it cannot be.
    """
    if reproduction.corpora is not None:
        return [str(local_text(dataset, reproduction.corpora))]
    protocol = reproduction.protocol
    largest = max(2 * protocol.train_tokens, protocol.reference_tokens)
    start = _starting_model(model, reproduction)
    sample = hub_sample(
        dataset,
        load_tokenizer(start),
        largest + 2 * protocol.validation_tokens,
        cache_folder() / "paper",
    )
    return [str(sample)]
