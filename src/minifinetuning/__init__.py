"""Minifinetuning: teach a language model a small private domain without wrecking what it knows.

    from minifinetuning import MFTConfig, MFTTrainer, read_corpus

The names below are the public ones. They are imported when they are first used: the core
(`linear_distillation` and the objectives) needs torch alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0.dev0"

if TYPE_CHECKING:
    from minifinetuning.data import Corpus, read_corpus
    from minifinetuning.errors import InputError, TrainingDivergedError
    from minifinetuning.models.adapters import adapter_config
    from minifinetuning.models.loading import load_model, load_tokenizer
    from minifinetuning.models.openelm import OpenELMConfig, OpenELMForCausalLM
    from minifinetuning.objectives import correct_distribution, rule
    from minifinetuning.ops import Distillation, Head, linear_distillation
    from minifinetuning.teacher.live import AdaptersOff, FrozenCopy, Teacher
    from minifinetuning.training.config import MFTConfig
    from minifinetuning.training.trainer import MFTTrainer

__all__ = [
    "AdaptersOff",
    "Corpus",
    "Distillation",
    "FrozenCopy",
    "Head",
    "InputError",
    "MFTConfig",
    "MFTTrainer",
    "OpenELMConfig",
    "OpenELMForCausalLM",
    "Teacher",
    "TrainingDivergedError",
    "adapter_config",
    "correct_distribution",
    "linear_distillation",
    "load_model",
    "load_tokenizer",
    "read_corpus",
    "rule",
]

_HOMES = {
    "training.config": ("MFTConfig",),
    "data": ("Corpus", "read_corpus"),
    "errors": ("InputError", "TrainingDivergedError"),
    "models.adapters": ("adapter_config",),
    "models.loading": ("load_model", "load_tokenizer"),
    "models.openelm": ("OpenELMConfig", "OpenELMForCausalLM"),
    "objectives": ("correct_distribution", "rule"),
    "ops": ("Distillation", "Head", "linear_distillation"),
    "teacher.live": ("AdaptersOff", "FrozenCopy", "Teacher"),
    "training.trainer": ("MFTTrainer",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"minifinetuning.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
