"""The distillation op: `linear_distillation` and what it takes and gives."""

from minifinetuning.ops.distillation import linear_distillation
from minifinetuning.ops.head import Head
from minifinetuning.ops.outputs import Distillation
from minifinetuning.ops.teacher import ExpectedEmbedding, TeacherStates, expected_embedding

__all__ = [
    "Distillation",
    "ExpectedEmbedding",
    "Head",
    "TeacherStates",
    "expected_embedding",
    "linear_distillation",
]
