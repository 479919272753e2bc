"""What is compared: from what a person types to the cells."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minifinetuning.data.config import DataConfig
from minifinetuning.data.mixing import Mixture
from minifinetuning.errors import InputError
from minifinetuning.lab.compare.cell import Cell, Settings, chosen_options
from minifinetuning.lab.compare.methods import (
    Method,
    learning_rate,
    parsed_methods,
    require_distinct,
)
from minifinetuning.models.config import ModelConfig
from minifinetuning.training.config import AUTO, ComparisonConfig

__all__ = ["Comparison", "comparison_of"]

BUDGET = 1.0
"""DG in % that a recommendation keeps to where nobody has said another."""


@dataclass(frozen=True)
class Comparison:
    """What is compared: methods x learning rates x seeds under common settings.

    `budget` is the DG in % that the recommendation keeps to; no run is stopped by it.
    """

    settings: Settings
    methods: Sequence[Method]
    learning_rates: Sequence[float]
    seeds: int
    budget: float

    @property
    def cells(self) -> list[Cell]:
        """A seed after the other, so that there is soon a table; methods as they were named."""
        first = self.settings.training["seed"]
        return [
            self._cell(method, rate, first + number)
            for number in range(self.seeds)
            for method in self.methods
            for rate in self._rates(method)
        ]

    def _rates(self, method: Method) -> Sequence[float]:
        return [method.learning_rate] if method.learning_rate else self.learning_rates

    def _cell(self, method: Method, rate: float, seed: int) -> Cell:
        unblended = [
            Cell(other, rate, seed)
            for other in self.methods
            if method.blends(other) and rate in self._rates(other)
        ]
        return Cell(method, rate, seed, *unblended)


def comparison_of(
    model: ModelConfig,
    data: DataConfig,
    training: ComparisonConfig,
    *,
    methods: str,
    learning_rates: str | None = None,
    seeds: int = 1,
    rank: int = 8,
) -> Comparison:
    """A comparison from what a person types; `training` is common to all methods.

    Its max_degeneralization is the budget, 1 % where nothing is said. Raises InputError for names
    and numbers that cannot be, and for options that belong to single methods.
    """
    for name in ("objective", "replay_objective"):
        if getattr(training, name) != getattr(ComparisonConfig(output_dir="."), name):
            raise InputError(f"--{name} is each method's own here: name it in --methods")
    if training.tau == AUTO:
        raise InputError("--tau auto is for `mft train`: give a number to compare at")
    if seeds < 1:
        raise InputError(f"--seeds must be at least 1, got {seeds}")
    if training.seed + seeds > 2**32:
        raise InputError(f"--seed {training.seed} leaves no room for {seeds} seeds: lower it")
    parsed = parsed_methods(methods)
    if any(method.replay for method in parsed):
        passes = training.gradient_accumulation_steps
        Mixture.of(training.new_data_fraction, training.per_device_train_batch_size, passes, 1)
    settings = Settings(model, data, rank, chosen_options(training), Path(str(training.output_dir)))
    rates = [training.learning_rate]
    if learning_rates is not None:
        rates = [
            learning_rate(text.strip(), "--learning_rates") for text in learning_rates.split(",")
        ]
    require_distinct(parsed, rates)
    return Comparison(settings, parsed, rates, seeds, training.max_degeneralization or BUDGET)
