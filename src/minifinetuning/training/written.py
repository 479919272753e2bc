"""Text that the model writes itself, made before training: `mft write`."""

import time
from dataclasses import dataclass
from typing import ClassVar

from accelerate import PartialState

from minifinetuning.data.config import DataConfig
from minifinetuning.errors import InputError
from minifinetuning.evaluation.scores import GENERAL
from minifinetuning.models.config import ModelConfig
from minifinetuning.options import option, require_ranges
from minifinetuning.training.texts import REPLAY, SELF, TextNeeds, read_texts

__all__ = ["WriteConfig", "write_text"]


@dataclass
class WriteConfig:
    """How much is written: the options that must be those of the training."""

    _argument_group_name: ClassVar[str] = "writing"

    new_data_fraction: float = option(0.5, "The share of new sequences in training.")
    seed: int = option(42, "Seed of the split, and of what is drawn.")

    def __post_init__(self) -> None:
        require_ranges(self)


def write_text(model: ModelConfig, data: DataConfig, options: WriteConfig) -> None:
    """Write what `mft train` with the same options would have the model write.

    Several processes may be at it, started together or one by one: each takes parts that no other
    is at. Raises InputError for input that cannot be used, and where no text is the model's own.
    """
    asked = {GENERAL: data.general, REPLAY: data.replay}
    roles = [role for role, sources in asked.items() if sources == [SELF]]
    if not roles:
        raise InputError(
            "the model has nothing to write: give --replay self, --general self, or both"
        )
    # Each process of a launcher gets a device of its own.
    process = PartialState()
    start = time.perf_counter()
    needs = TextNeeds(options.seed, new_data_fraction=options.new_data_fraction)
    texts = read_texts(model, data, needs, progress=process.is_main_process)
    if process.is_main_process:
        written = [texts.summaries[role] for role in roles]
        tokens = sum(summary.train_tokens + summary.validation_tokens for summary in written)
        seconds = time.perf_counter() - start
        print(f"{tokens:,} tokens are written, after {seconds:.0f} seconds")
