"""One cell of a comparison: a method at a learning rate and a seed, and where its result lies."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minifinetuning.config import ComparisonConfig, DataConfig, ModelConfig
from minifinetuning.errors import InputError
from minifinetuning.experiments.compare.methods import Method
from minifinetuning.experiments.texts import Texts, read_texts

__all__ = ["Cell", "Settings", "chosen_options", "result_of"]

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

    @property
    def reference(self) -> Path:
        """Where the scores of the starting model are kept."""
        return self.folder / "reference.json"

    def texts(self, method: Method, *, progress: bool, say: Callable[[str], None]) -> Texts:
        """What a method is trained and measured on: read, or found in the cache."""
        data = self.data
        return read_texts(
            self.model,
            data,
            data.data,
            data.general,
            seed=self.training["seed"],
            replay=method.replay_sources(data.replay or data.general),
            new_data_fraction=self.training["new_data_fraction"],
            with_fisher=method.ewc,
            fisher_sources=data.replay,
            progress=progress,
            say=say,
        )

    def identity(self) -> dict[str, Any]:
        """Everything that the results depend on and all cells share, as JSON says it."""
        training = {name: value for name, value in self.training.items() if name not in _IRRELEVANT}
        record = {
            "model": {name: value for name, value in vars(self.model).items() if value is not None},
            "data": asdict(self.data),
            "rank": self.rank,
            "first_seed": self.training["seed"],
            "training": training,
        }
        shared: dict[str, Any] = json.loads(json.dumps(record, default=str))
        return shared


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

    def path(self, settings: Settings) -> Path:
        """Where its result lies, once it is done."""
        return settings.folder / "cells" / f"{self.name}.json"

    def identity(self, settings: Settings) -> dict[str, Any]:
        """Everything that its result depends on."""
        own = {
            "method": self.method.name,
            "learning_rate": self.learning_rate,
            "seed": self.seed,
            "options": self.method.options(settings.training),
        }
        return own | settings.identity()


def result_of(cell: Cell, settings: Settings) -> dict[str, Any] | None:
    """The result of a cell that is done; None where it is not.

    Raises InputError where the file is that of other settings, or damaged.
    """
    path = cell.path(settings)
    if not path.exists():
        return None
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = result["cell"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is damaged: remove it, and it is computed again") from None
    for name, value in cell.identity(settings).items():
        if found.get(name) != value:
            raise InputError(
                f"{path} is of another comparison ({name}: {_difference(found.get(name), value)}): "
                "name another --output_dir, or pass --overwrite_output_dir"
            )
    return result


def _difference(found: Any, expected: Any) -> str:
    """The first entry that differs, of two dicts or values."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for name in found | expected:
            if found.get(name) != expected.get(name):
                return f"{name} {found.get(name)}, not {expected.get(name)}"
    return f"{found}, not {expected}"


def chosen_options(training: ComparisonConfig) -> dict[str, Any]:
    """The fields that were set, and those that every cell looks at; no tokens: it is written."""
    chosen = training.chosen(
        *("seed", "ewc_lambda", "new_data_fraction", "teacher_cache", "bf16"),
        *("per_device_train_batch_size", "gradient_accumulation_steps"),
    )
    return {name: value for name, value in chosen.items() if not name.endswith("_token")}
