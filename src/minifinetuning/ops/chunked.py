"""The distillation op in plain torch, by chunks of tokens, for any device.

Everything is held in float32 or better: rounding the logits to bfloat16 costs MFT's gradient up to
8 %.

The matrix products want many rows at a time, what is done entry by entry wants few, which stay in
the processor's cache from one pass to the next: chunks are for the first, blocks for the second.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from minifinetuning.objectives import Rule
from minifinetuning.ops.autograd import distillation_in_chunks
from minifinetuning.ops.buffers import Buffers
from minifinetuning.ops.gradients import Gradients
from minifinetuning.ops.head import Head
from minifinetuning.ops.outputs import Distillation, TokenOutputs, top_logits
from minifinetuning.ops.teacher import (
    ExpectedEmbedding,
    TeacherStates,
    TeacherTerms,
    expected_terms,
    states_terms,
)

__all__ = ["chunked_distillation"]


def chunked_distillation(
    student_hidden: Tensor,
    student_head: Head,
    labels: Tensor,
    rule: Rule,
    teacher: TeacherStates | ExpectedEmbedding | None = None,
    ignore_index: int = -100,
    chunk_rows: int | None = None,
) -> Distillation:
    """See `linear_distillation`. `chunk_rows` overrides the tokens of a chunk."""
    dtype = torch.promote_types(student_hidden.dtype, torch.float32)
    return distillation_in_chunks(
        _Arithmetic(_in_dtype(student_head, dtype), _teacher_in_dtype(teacher, dtype), rule),
        student_hidden,
        student_head,
        labels,
        ignore_index,
        chunk_rows,
        with_teacher=teacher is not None,
    )


class _Arithmetic:
    """The arithmetic of one chunk, in the buffers of one call."""

    def __init__(
        self, head: Head, teacher: TeacherStates | ExpectedEmbedding | None, rule: Rule
    ) -> None:
        self.head, self.rule = head, rule
        self.expected = teacher if isinstance(teacher, ExpectedEmbedding) else None
        self.states = teacher if isinstance(teacher, TeacherStates) else None
        weight = head.weight
        self.buffers = Buffers(head.size, weight.dtype, weight.device, 2 if self.states else 1)

    def chunk_rows(self, tokens: int) -> int:
        return self.buffers.chunk_rows(tokens)

    def run(
        self,
        chunk: slice,
        hidden: Tensor,
        labels: Tensor,
        kept: Tensor,
        outputs: TokenOutputs,
        gradients: Gradients,
    ) -> None:
        hidden = hidden.to(self.head.weight.dtype)
        z_student = _logits(self.head, hidden, out=self.buffers.logits(0, len(hidden)))
        for block, terms in self._teacher_blocks(chunk, hidden, z_student, labels):
            self._block(
                z_student[block],
                terms,
                labels[block],
                kept[block],
                outputs[block],
                with_gradient=gradients.any,
            )
        if gradients.any:
            # z_S now holds d loss / d z_S, still without w and scale.
            gradients.add(chunk, z_student, hidden, outputs.weight, self.head)
            if self.expected is not None:
                gradients.add_expected(chunk, self.expected, outputs, self.head.scale)

    def _teacher_blocks(
        self, chunk: slice, hidden: Tensor, z_student: Tensor, labels: Tensor
    ) -> Iterator[tuple[slice, TeacherTerms | None]]:
        """The blocks of a chunk, each with what the loss needs of the teacher there."""
        blocks = self.buffers.blocks(len(hidden))
        if self.states is not None:
            head = self.states.head
            states = self.states.hidden[chunk].to(head.weight.dtype)
            logits = _logits(head, states, out=self.buffers.logits(1, len(hidden), head.size))
            for block in blocks:
                scratch = self.buffers.scratch(1, block, head.size)
                yield block, states_terms(logits[block], z_student[block], labels[block], scratch)
        elif self.expected is not None:
            terms = expected_terms(self.expected, chunk, hidden, self.head.scale)
            for block in blocks:
                yield block, terms[block]
        else:
            for block in blocks:
                yield block, None

    def _block(
        self,
        z_student: Tensor,
        teacher: TeacherTerms | None,
        labels: Tensor,
        kept: Tensor,
        outputs: TokenOutputs,
        with_gradient: bool,
    ) -> None:
        """Fill a block's outputs, and write d loss / d z_S (without w) over z_S."""
        scratch = self.buffers.scratch(0, slice(0, len(z_student)), self.head.size)
        student_label = _at(z_student, labels)
        highest = z_student.amax(1)
        p_student = torch.softmax(z_student, 1, out=scratch)
        # The largest probability is at least 1/V, so its logarithm is exact to rounding.
        lse_student = highest - p_student.amax(1).log()
        student_top_logits = partial(top_logits, z_student)
        outputs.fill(self.rule, kept, lse_student, student_label, student_top_logits, teacher)
        if with_gradient:
            p_teacher = None if teacher is None else teacher.probabilities
            self._write_logit_gradient(z_student, p_student, p_teacher, outputs.mixing, labels)

    def _write_logit_gradient(
        self,
        z_student: Tensor,
        p_student: Tensor,
        p_teacher: Tensor | None,
        mixing: Tensor,
        labels: Tensor,
    ) -> None:
        """p_S - (1 - m) * p_T - m * one_hot(l), through the soft cap, over z_S (and p_S)."""
        gradient = p_student
        if p_teacher is not None:
            on_teacher = gradient[:, : p_teacher.shape[1]]
            on_teacher.addcmul_(p_teacher, (1 - mixing).unsqueeze(1), value=-1)
        gradient.scatter_add_(1, labels.unsqueeze(1), -mixing.unsqueeze(1))
        if self.head.soft_cap is None:
            z_student.copy_(gradient)
        else:
            # d z / d a = 1 - tanh(a / c)^2, and tanh(a / c) = z / c.
            z_student.div_(self.head.soft_cap).square_().neg_().add_(1).mul_(gradient)


def _in_dtype(head: Head, dtype: torch.dtype) -> Head:
    head = head.detached()
    bias = None if head.bias is None else head.bias.to(dtype)
    return replace(head, weight=head.weight.to(dtype), bias=bias)


def _teacher_in_dtype(
    teacher: TeacherStates | ExpectedEmbedding | None, dtype: torch.dtype
) -> TeacherStates | ExpectedEmbedding | None:
    if isinstance(teacher, TeacherStates):
        return TeacherStates(teacher.hidden.detach(), _in_dtype(teacher.head, dtype))
    return teacher


def _logits(head: Head, hidden: Tensor, out: Tensor) -> Tensor:
    """`head.logits(hidden)` written into `out` (n, V)."""
    torch.mm(hidden, head.weight.T, out=out)
    if head.bias is not None:
        out.add_(head.bias)
    if head.scale != 1.0:
        out.mul_(head.scale)
    if head.soft_cap is not None:
        out.div_(head.soft_cap).tanh_().mul_(head.soft_cap)
    return out


def _at(rows: Tensor, labels: Tensor) -> Tensor:
    return rows.gather(1, labels.unsqueeze(1)).squeeze(1)
