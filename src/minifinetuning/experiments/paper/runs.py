"""What a cell of the paper, and the reference that it starts from, are as runs."""

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from minifinetuning.config import (
    ComparisonConfig,
    DataConfig,
    GeneralConfig,
    ModelConfig,
    ReferenceConfig,
)
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
    slug,
)
from minifinetuning.experiments.paper.datasets import (
    GENERAL,
    PaperDataset,
    dataset_named,
    dataset_sources,
)
from minifinetuning.experiments.paper.models import TINY
from minifinetuning.experiments.paper.reproduction import Reproduction
from minifinetuning.experiments.paper.tiny import tiny_model
from minifinetuning.experiments.provenance import commit
from minifinetuning.experiments.reference import prepare_reference
from minifinetuning.files import cache_folder, write_atomically
from minifinetuning.models.loading import load_tokenizer

__all__ = ["CellTask", "ReferenceTask", "reference_folder", "text_sources"]


@dataclass(frozen=True)
class ReferenceTask:
    """Prepares the reference of a model: light tuning on the general text, once for all cells."""

    model: str
    reproduction: Reproduction

    def __call__(self) -> None:
        """Write the checkpoint into the cache, and its figures beside the results."""
        folder = reference_folder(self.model, self.reproduction)
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
                disable_tqdm=True,
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
        start, known = path.with_name("reference.json"), None
        if start.exists():
            known = scores_from(json.loads(start.read_text(encoding="utf-8")))
        try:
            run = measured(Cell(method, rate, reproduction.seed), settings, known)
        finally:
            shutil.rmtree(settings.folder, ignore_errors=True)
        if known is None:
            write_atomically(start, scores_record(run.reference))
        ((_, result),) = run.results
        write_atomically(
            path, result | {"identity": reproduction.identity(cell), "commit": commit()}
        )


def reference_folder(model: str, reproduction: Reproduction) -> Path:
    """Where the reference of a model lies, or will once it is prepared."""
    if reproduction.reference is not None:
        return reproduction.reference
    known = reproduction.model(model)
    key = [
        *(known.hub, asdict(reproduction.protocol), reproduction.seed),
        *(str(reproduction.corpora), reproduction.machine.dtype),
    ]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]
    return cache_folder() / "references" / f"{slug(known.name)}-{digest}"


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
        disable_tqdm=True,
    )
    return Settings(
        ModelConfig(str(reference_folder(cell.model, reproduction)), dtype=machine.dtype),
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
        general = dataset_sources(
            GENERAL, corpora=reproduction.corpora, tokenizer=None, tokens=0, cache=cache_folder()
        )
        place = str(tiny_model(general, cache_folder(), reproduction.seed))
    return ModelConfig(place, dtype=reproduction.machine.dtype, tokenizer=model.tokenizer)


def text_sources(dataset: PaperDataset, model: str, reproduction: Reproduction) -> list[str]:
    """The text of a dataset, the same for all cells of a model, whatever their budget.

    It is fetched where it is not here yet. Raises InputError where it cannot be.
    """
    protocol = reproduction.protocol
    largest = max(2 * protocol.train_tokens, protocol.reference_tokens)
    if reproduction.corpora is not None:
        return dataset_sources(
            dataset,
            corpora=reproduction.corpora,
            tokenizer=None,
            tokens=0,
            cache=cache_folder(),
        )
    start = _starting_model(model, reproduction)
    return dataset_sources(
        dataset,
        corpora=None,
        tokenizer=load_tokenizer(start.tokenizer or start.model),
        tokens=largest + 2 * protocol.validation_tokens,
        cache=cache_folder() / "paper",
    )
