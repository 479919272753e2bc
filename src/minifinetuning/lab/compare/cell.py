"""One cell of a comparison: a method at a learning rate and a seed, and where its result lies."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minifinetuning.data.config import DataConfig
from minifinetuning.lab.compare.methods import Method
from minifinetuning.lab.contents import Content, measured_texts
from minifinetuning.lab.kept_results import KeptResult
from minifinetuning.models.config import ModelConfig
from minifinetuning.training.config import ComparisonConfig
from minifinetuning.training.provenance import MEASURE
from minifinetuning.training.texts import TextNeeds, Texts, read_texts

__all__ = ["WORKING", "Cell", "Settings", "chosen_options"]

WORKING = ".running"
"""The folder for what cells need while they run: nothing of it is kept."""

_IRRELEVANT = {
    *("learning_rate", "seed", "max_degeneralization", "overwrite_output_dir", "teacher_cache"),
    *("disable_tqdm", "report_to", "run_name", "logging_steps", "logging_strategy"),
    *("dataloader_num_workers", "dataloader_pin_memory", "log_level"),
}
"""Fields that change no figure, or of which each cell has its own."""


@dataclass(frozen=True)
class Settings:
    """What all cells of a comparison have in common; `training` are fields of its config."""

    model: ModelConfig
    data: DataConfig
    rank: int
    training: dict[str, Any]
    folder: Path

    def reference(self, content: Content) -> KeptResult:
        """Where the scores of the starting model are kept: they depend on no training."""
        identity = {
            "measure": MEASURE,
            "model": content.model,
            "texts": measured_texts(content.texts),
            "bf16": self.training["bf16"],
        }
        return KeptResult(self.folder / "reference.json", identity)

    @property
    def working_folder(self) -> Path:
        """Where cells lay what they need while they run."""
        return self.folder / WORKING

    def texts(self, method: Method, *, progress: bool, say: Callable[[str], None]) -> Texts:
        """What a method is trained and measured on: read, or found in the cache."""
        general = self.data.replay or self.data.general
        data = replace(self.data, replay=method.replay_sources(general))
        needs = TextNeeds(
            self.training["seed"],
            new_data_fraction=self.training["new_data_fraction"],
            fisher=general if method.ewc else None,
        )
        return read_texts(self.model, data, needs, progress=progress, say=say, warn=say)


@dataclass(frozen=True)
class Cell:
    """A method, its learning rate, and the seed of order, dropout and initial adapters.

    `unblended` is the cell of the same comparison that a blended one trains on the way.
    """

    method: Method
    learning_rate: float
    seed: int
    unblended: "Cell | None" = None

    @property
    def name(self) -> str:
        """Of its file and for a person: `lora+mft@0.0003-seed42`."""
        return f"{self.method.name}@{self.learning_rate:g}-seed{self.seed}"

    def kept(self, settings: Settings, content: Content) -> KeptResult:
        """Where its result lies, once it is done, with everything that it depends on."""
        training = {
            name: value for name, value in settings.training.items() if name not in _IRRELEVANT
        }
        identity = {
            "measure": MEASURE,
            "method": self.method.name,
            "learning_rate": self.learning_rate,
            "seed": self.seed,
            "options": self.method.options(settings.training),
            "rank": settings.rank,
            "training": training,
            "model": content.model,
            "texts": content.texts,
        }
        return KeptResult(settings.folder / "cells" / f"{self.name}.json", identity)


def chosen_options(training: ComparisonConfig) -> dict[str, Any]:
    """The fields that were set, and those that every cell looks at; no tokens: it is written."""
    chosen = training.chosen(
        *("seed", "ewc_lambda", "new_data_fraction", "teacher_cache", "bf16"),
        *("per_device_train_batch_size", "gradient_accumulation_steps"),
    )
    return {name: value for name, value in chosen.items() if not name.endswith("_token")}
