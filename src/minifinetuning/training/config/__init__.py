"""The configuration, as dataclasses: the help of every option lives there, once."""

from minifinetuning.training.config.inputs import (
    AdapterConfig,
    DataConfig,
    GeneralConfig,
    ModelConfig,
    TextConfig,
)
from minifinetuning.training.config.runs import CacheConfig, ComparisonConfig, ReferenceConfig
from minifinetuning.training.config.training import AUTO, SELECTION, MFTConfig, bfloat16_pays

__all__ = [
    "AUTO",
    "SELECTION",
    "AdapterConfig",
    "CacheConfig",
    "ComparisonConfig",
    "DataConfig",
    "GeneralConfig",
    "MFTConfig",
    "ModelConfig",
    "ReferenceConfig",
    "TextConfig",
    "bfloat16_pays",
]
