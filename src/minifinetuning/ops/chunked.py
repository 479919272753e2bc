"""The distillation op in chunks of tokens: no (N, V) tensor, gradients computed with the loss.

The loss needs of the vocabulary only a few sums per token. With lse the logsumexp of a row,

    loss = w * (lse(z_S) - (1 - m) * sum(p_T * z_S) - m * z_S[l])
    d loss / d z_S = w * (p_S - (1 - m) * p_T - m * one_hot(l))
    KL(p_T || p_S) = sum(p_T * log p_T) - sum(p_T * z_S) + lse(z_S)

so a chunk's logits are used up, gradients included, before the next chunk is begun. Everything is
held in float32 or better: rounding the logits to bfloat16 costs MFT's gradient up to 8 %.

The matrix products want many rows at a time, what is done entry by entry wants few, which stay in
the processor's cache from one pass to the next: chunks are for the first, blocks for the second.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minifinetuning.objectives import Rule, TokenProbabilities
from minifinetuning.ops.buffers import Buffers
from minifinetuning.ops.gradients import Gradients
from minifinetuning.ops.head import Head
from minifinetuning.ops.result import Distillation
from minifinetuning.ops.teacher import ExpectedEmbedding, TeacherStates
from minifinetuning.ops.teacher_terms import TeacherTerms, expected_terms, states_terms

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
    loss, likelihood, forward_kl, right, mixing = _ChunkedDistillation.apply(
        student_hidden,
        student_head.weight,
        student_head.bias,
        student_head,
        teacher,
        labels,
        labels != ignore_index,
        rule,
        chunk_rows,
        torch.is_grad_enabled(),
    )
    return Distillation(
        loss=loss,
        tokens=(labels != ignore_index).sum(),
        negative_log_likelihood=likelihood,
        forward_kl=forward_kl if teacher else None,
        teacher_is_right=right if teacher else None,
        mixing=mixing if teacher else None,
    )


class _ChunkedDistillation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        head: Head,
        teacher: TeacherStates | ExpectedEmbedding | None,
        labels: Tensor,
        kept: Tensor,
        rule: Rule,
        chunk_rows: int | None,
        with_gradients: bool,
    ) -> tuple[Tensor, ...]:
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        needed = [with_gradients and need for need in ctx.needs_input_grad[:3]]
        gradients = Gradients.zeros(hidden, weight, bias, dtype, needed)
        work = _Work(_in_dtype(head, dtype), _teacher_in_dtype(teacher, dtype), rule, hidden.device)
        outputs = _outputs(hidden.shape[0], dtype, hidden.device)
        rows = chunk_rows or work.buffers.chunk_rows
        for start in range(0, hidden.shape[0], rows):
            chunk = slice(start, start + rows)
            given = (hidden[chunk].detach().to(dtype), labels[chunk], kept[chunk])
            work.run(chunk, *given, tuple(output[chunk] for output in outputs), gradients)
        ctx.save_for_backward(gradients.hidden, gradients.weight, gradients.bias)
        ctx.dtypes = [None if t is None else t.dtype for t in (hidden, weight, bias)]
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs[0].sum(), *outputs[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [
            None if gradient is None else (gradient * loss_gradient).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return (*scaled, *[None] * 7)


class _Work:
    """The arithmetic of one chunk, in the buffers of one call."""

    def __init__(
        self,
        head: Head,
        teacher: TeacherStates | ExpectedEmbedding | None,
        rule: Rule,
        device: torch.device,
    ) -> None:
        self.head, self.teacher, self.rule = head, teacher, rule
        self.expected = teacher if isinstance(teacher, ExpectedEmbedding) else None
        self.states = teacher if isinstance(teacher, TeacherStates) else None
        self.buffers = Buffers(head.size, head.weight.dtype, device, 2 if self.states else 1)

    def run(
        self,
        chunk: slice,
        hidden: Tensor,
        labels: Tensor,
        kept: Tensor,
        outputs: tuple[Tensor, ...],
        gradients: Gradients,
    ) -> None:
        """Fill this chunk's outputs and add its part of the gradients."""
        labels = labels.masked_fill(~kept, 0)
        weight = torch.empty_like(outputs[0])
        z_student = _logits(self.head, hidden, out=self.buffers.logits(0, len(hidden)))
        for block, terms in self._teacher_blocks(chunk, hidden, z_student, labels):
            self._block(
                z_student[block],
                terms,
                labels[block],
                kept[block],
                weight[block],
                tuple(output[block] for output in outputs),
                gradients.any,
            )
        if gradients.any:
            # z_S now holds d loss / d z_S, still without w and scale, and without the part of an
            # expected embedding, which needs no vocabulary.
            gradients.add(chunk, z_student, hidden, weight, self.head)
            if self.expected is not None and gradients.hidden is not None:
                share = (outputs[-1] - 1) * weight * self.head.scale
                gradients.hidden[chunk].addcmul_(self.expected.embedding[chunk], share.unsqueeze(1))

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
        weight_out: Tensor,
        outputs: tuple[Tensor, ...],
        with_gradient: bool,
    ) -> None:
        """Fill a block's outputs and w, and write d loss / d z_S (without w) over z_S."""
        loss, likelihood, forward_kl, right, mixing_out = outputs
        scratch = self.buffers.scratch(0, slice(0, len(z_student)), self.head.size)
        student_label = _at(z_student, labels)
        highest = z_student.amax(1)
        p_student = torch.softmax(z_student, 1, out=scratch)
        # The largest probability is at least 1/V, so its logarithm is exact to rounding.
        lse_student = highest - p_student.amax(1).log()
        p_label = (student_label - lse_student).exp()
        if teacher is None:
            tokens = TokenProbabilities(p_label)
            expected_logit = torch.zeros_like(p_label)
        else:
            tokens = TokenProbabilities(p_label, teacher.label, teacher.highest)
            expected_logit = teacher.expected_logit
            divergence = teacher.negative_entropy - expected_logit + lse_student
            forward_kl.copy_(divergence.where(kept, 0.0))
            right.copy_(tokens.teacher_is_right & kept)

        mixing, weight = self.rule(tokens)
        weight_out.copy_(weight.where(kept, 0.0))
        cross_entropy = lse_student - (1 - mixing) * expected_logit - mixing * student_label
        loss.copy_((weight * cross_entropy).where(kept, 0.0))
        likelihood.copy_((lse_student - student_label).where(kept, 0.0))
        mixing_out.copy_(mixing.where(kept, 0.0))
        if with_gradient:
            p_teacher = None if teacher is None else teacher.probabilities
            self._write_logit_gradient(z_student, p_student, p_teacher, mixing, labels)

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


def _outputs(tokens: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """Per token: loss, negative log-likelihood, forward KL, teacher is right, mixing."""
    values = [torch.zeros(tokens, dtype=dtype, device=device) for _ in range(5)]
    values[3] = values[3].bool()
    return tuple(values)


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
