"""The distillation op: `linear_distillation` and what it takes and gives."""

from minifinetuning.ops.head import Head
from minifinetuning.ops.linear_distillation import linear_distillation
from minifinetuning.ops.result import Distillation

__all__ = ["Distillation", "Head", "linear_distillation"]
