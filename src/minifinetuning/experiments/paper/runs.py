"""What a cell of the paper, and the reference that it starts from, are as runs."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minifinetuning.config import (
    ComparisonConfig,
    DataConfig,
    GeneralConfig,
    ModelConfig,
    ReferenceConfig,
)
from minifinetuning.errors import InputError
from minifinetuning.evaluation import TextScores
from minifinetuning.experiments.compare.cell import Cell, Settings, chosen_options
from minifinetuning.experiments.compare.cell_run import measured
from minifinetuning.experiments.compare.methods import parsed_methods
from minifinetuning.experiments.compare.scores import scores_from, scores_record
from minifinetuning.experiments.paper.cells import (
    METHODS,
    USUAL_NEW_DATA_FRACTION,
    USUAL_RANK,
    USUAL_TAU,
    PaperCell,
)
from minifinetuning.experiments.paper.datasets import (
    GENERAL,
    PaperDataset,
    dataset_named,
    hub_sample,
    local_text,
)
from minifinetuning.experiments.paper.models import TINY
from minifinetuning.experiments.paper.reproduction import Reproduction
from minifinetuning.experiments.paper.tiny import tiny_model
from minifinetuning.experiments.provenance import commit, without_places
from minifinetuning.experiments.reference import prepare_reference
from minifinetuning.files import cache_folder, write_atomically
from minifinetuning.models.loading import load_tokenizer

__all__ = ["CellTask", "ReferenceTask", "text_sources"]


@dataclass(frozen=True)
class ReferenceTask:
    """Prepares the reference of a model: light tuning on the general text, once for all cells."""

    model: str
    reproduction: Reproduction

    def __call__(self) -> None:
        """Write the checkpoint into the cache, and its figures beside the results."""
        folder = self.reproduction.reference_folder(self.model)
        if not folder.exists():
            self._prepare(folder)
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
        )
        for checkpoint in staged.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
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
        path = reproduction.result_path(cell)
        # Whatever is varied, a model starts with the same scores on the same texts.
        start = path.with_name("reference.json")
        identity = reproduction.identity(cell)
        shared = {name: value for name, value in identity.items() if name != "cell"}
        known = _known_scores(start, shared)
        try:
            run = measured(Cell(method, rate, reproduction.seed), settings, known)
        finally:
            shutil.rmtree(settings.folder, ignore_errors=True)
        if known is None:
            record = {"identity": shared, "scores": scores_record(run.reference)}
            write_atomically(start, record)
        ((_, result),) = run.results
        kept = without_places(result) | {"identity": identity, "commit": commit()}
        write_atomically(path, kept)


def _known_scores(path: Path, identity: dict[str, Any]) -> dict[str, TextScores] | None:
    """The starting model's scores, where an earlier cell of these settings has measured them."""
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    same = found["identity"] == json.loads(json.dumps(identity))
    return scores_from(found["scores"]) if same else None


def cell_settings(cell: PaperCell, reproduction: Reproduction) -> Settings:
    """The run of a cell in the terms of a comparison of one method."""
    protocol, machine = reproduction.protocol, reproduction.machine
    size, passes = machine.batches(protocol.sequences)
    folder = reproduction.result_path(cell).with_suffix("")
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
        load_tokenizer(start.tokenizer or start.model),
        largest + 2 * protocol.validation_tokens,
        cache_folder() / "paper",
    )
    return [str(sample)]
