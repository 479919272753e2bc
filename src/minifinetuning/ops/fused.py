"""The distillation op on a GPU: matrix products by torch, the passes over their rows by Triton.

A chunk costs one product for each side's logits, two passes over them (`kernels`), and one product
for each gradient. Logits are float32 or better; the gradient of the logits is rounded, once and
last, to the dtype that the products are taken in. Nothing here waits for the device.
"""

import os
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minifinetuning.objectives import Rule
from minifinetuning.ops.autograd import distillation_in_chunks
from minifinetuning.ops.buffers import AlignedBuffers, chunk_rows_within_budget
from minifinetuning.ops.gradients import Gradients, product
from minifinetuning.ops.head import Head
from minifinetuning.ops.outputs import Distillation, TokenOutputs, top_logits
from minifinetuning.ops.teacher import (
    ExpectedEmbedding,
    TeacherStates,
    TeacherTerms,
    expected_terms,
)

if TYPE_CHECKING:
    from minifinetuning.ops.kernels import Logits

__all__ = ["fused_distillation", "has_triton"]

FACTORS = {torch.float16: 2.0**10}
"""What the gradient of the logits is held times. Most entries of a large vocabulary have a share
far below float16's 6e-8; and w * scale may be up to 63 before the largest entries overflow."""


def has_triton() -> bool:
    """Whether Triton can be imported."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


def fused_distillation(
    student_hidden: Tensor,
    student_head: Head,
    labels: Tensor,
    rule: Rule,
    teacher: TeacherStates | ExpectedEmbedding | None = None,
    ignore_index: int = -100,
    chunk_rows: int | None = None,
    product_dtype: torch.dtype | None = None,
) -> Distillation:
    """See `linear_distillation`. `chunk_rows` overrides the tokens of a chunk.

    Products are taken in `product_dtype`, by default in a 16-bit dtype that hidden states and
    weight share, else in float32 or better. Raises ValueError where Triton cannot run.
    """
    _check_triton_runs(student_hidden.device)
    return distillation_in_chunks(
        _Arithmetic(student_hidden.dtype, student_head, teacher, rule, product_dtype),
        student_hidden,
        student_head,
        labels,
        ignore_index,
        chunk_rows,
        with_teacher=teacher is not None,
    )


def _check_triton_runs(device: torch.device) -> None:
    if not has_triton():
        raise ValueError("impl='fused' needs Triton: install triton, or choose impl='chunked'")
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            "impl='fused' runs on a GPU, and the hidden states are on the CPU: choose "
            "impl='chunked' (or set TRITON_INTERPRET=1 to try the kernels, very slowly)"
        )


class _Arithmetic:
    """The arithmetic of one chunk, in the buffers of one call."""

    def __init__(
        self,
        dtype: torch.dtype,
        head: Head,
        teacher: TeacherStates | ExpectedEmbedding | None,
        rule: Rule,
        product_dtype: torch.dtype | None,
    ) -> None:
        self.rule = rule
        self.dtype = torch.promote_types(dtype, torch.float32)
        self.head = self._for_products(head, dtype, product_dtype)
        self.expected = teacher if isinstance(teacher, ExpectedEmbedding) else None
        self.states: TeacherStates | None = None
        if isinstance(teacher, TeacherStates):
            hidden = teacher.hidden.detach()
            self.states = TeacherStates(
                hidden, self._for_products(teacher.head, hidden.dtype, product_dtype)
            )
        self.buffers = AlignedBuffers(head.weight.device)

    def _for_products(self, head: Head, dtype: torch.dtype, wanted: torch.dtype | None) -> Head:
        """The head, out of the graph, with a weight of the dtype of its products.

        `dtype` is that of its hidden states.
        """
        if self.dtype != torch.float32:
            wanted = self.dtype
        elif wanted is None:
            shared = dtype == head.weight.dtype and dtype.itemsize == 2
            wanted = dtype if shared else self.dtype
        head = head.detached()
        return replace(head, weight=head.weight.to(wanted))

    def chunk_rows(self, tokens: int) -> int:
        row_bytes = self.head.size * self.dtype.itemsize
        if self.states is not None:
            row_bytes += self.states.head.size * self.dtype.itemsize
        if self._rounds:
            row_bytes += self.head.size * self.head.weight.dtype.itemsize
        return chunk_rows_within_budget(tokens, row_bytes, self.buffers.device)

    @property
    def _rounds(self) -> bool:
        """Whether the gradient of the logits is rounded, and so has a buffer of its own."""
        return self.head.weight.dtype != self.dtype

    def run(
        self,
        chunk: slice,
        hidden: Tensor,
        labels: Tensor,
        kept: Tensor,
        outputs: TokenOutputs,
        gradients: Gradients,
    ) -> None:
        from minifinetuning.ops import kernels

        factors = hidden.to(self.head.weight.dtype)
        student = self._logits("student", self.head, factors)
        teacher = None
        if self.states is not None:
            states = self.states.hidden[chunk].to(self.states.head.weight.dtype)
            teacher = self._logits("teacher", self.states.head, states)
        statistics = kernels.row_statistics(student, teacher, labels)

        terms: TeacherTerms | None = None
        if teacher is not None:
            terms = kernels.teacher_terms(statistics)
        elif self.expected is not None:
            hidden = hidden.to(self.dtype)
            terms = expected_terms(self.expected, chunk, hidden, self.head.scale)
        top = partial(_top_logits, student)
        outputs.fill(self.rule, kept, statistics[:, 0], statistics[:, 1], top, terms)

        if gradients.any:
            factor = FACTORS.get(self.head.weight.dtype, 1.0)
            out = student.products
            if self._rounds:
                out = self.buffers.tensor("gradient", len(out), student.size, factors.dtype)
            kernels.write_logit_gradient(student, teacher, labels, statistics, outputs, factor, out)
            gradients.add_weighted(chunk, out, factors, self.head, factor)
            if self.expected is not None:
                gradients.add_expected(chunk, self.expected, outputs, self.head.scale)

    def _logits(self, name: str, head: Head, hidden: Tensor) -> "Logits":
        """The logits of a chunk, in the buffer of that name."""
        from minifinetuning.ops.kernels import Logits

        out = self.buffers.tensor(name, len(hidden), head.size, self.dtype)
        products = product(hidden, head.weight.T, out)
        return Logits(products, head.bias, head.scale, head.soft_cap)


def _top_logits(logits: "Logits", count: int) -> Tensor:
    """Scale and soft cap keep the order, so that they wait for what is left; a bias does not."""
    products = logits.products if logits.bias is None else logits.products + logits.bias
    z = top_logits(products, count) * logits.scale
    return z if logits.soft_cap is None else logits.soft_cap * torch.tanh(z / logits.soft_cap)
