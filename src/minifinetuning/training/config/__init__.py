"""The configuration of a run, as dataclasses: the help of every option lives there, once."""

from minifinetuning.training.config.runs import CacheConfig, ComparisonConfig, ReferenceConfig
from minifinetuning.training.config.training import AUTO, SELECTION, MFTConfig

__all__ = [
    "AUTO",
    "SELECTION",
    "CacheConfig",
    "ComparisonConfig",
    "MFTConfig",
    "ReferenceConfig",
]
