"""The configuration, as dataclasses: the help of every option lives there, once."""

from minifinetuning.config.inputs import (
    AdapterConfig,
    DataConfig,
    GeneralConfig,
    ModelConfig,
    TextConfig,
)
from minifinetuning.config.runs import CacheConfig, ComparisonConfig, ReferenceConfig
from minifinetuning.config.training import AUTO, SELECTION, MFTConfig, bfloat16_pays

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
