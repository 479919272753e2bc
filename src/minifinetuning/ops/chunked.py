"""The distillation op in chunks of tokens: no (N, V) tensor, gradients computed with the loss.

The loss needs of the vocabulary only a few sums per token. With lse the logsumexp of a row,

    loss = w * (lse(z_S) - (1 - m) * sum(p_T * z_S) - m * z_S[l])
    d loss / d z_S = w * (p_S - (1 - m) * p_T - m * one_hot(l))
    KL(p_T || p_S) = sum(p_T * z_T) - lse(z_T) - sum(p_T * z_S) + lse(z_S)

so a chunk's logits are used up, gradients included, before the next chunk is begun. Everything is
held in float32 or better: rounding the logits to bfloat16 costs MFT's gradient up to 8 %.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minifinetuning.objectives import Rule, TokenProbabilities
from minifinetuning.ops.gradients import Gradients
from minifinetuning.ops.head import Head
from minifinetuning.ops.result import Distillation

__all__ = ["chunked_distillation"]

BUFFER_BYTES = 512 * 2**20
"""Memory that the three logit buffers of a chunk may take together."""

LEAST_ROWS = 128
"""A chunk of fewer tokens than this starves the matrix product, whatever the budget says."""


def chunked_distillation(
    student_hidden: Tensor,
    student_head: Head,
    labels: Tensor,
    rule: Rule,
    teacher_hidden: Tensor | None = None,
    teacher_head: Head | None = None,
    ignore_index: int = -100,
    chunk_rows: int | None = None,
) -> Distillation:
    """See `linear_distillation`. `chunk_rows` overrides the tokens of a chunk."""
    teacher = None
    if teacher_hidden is not None and teacher_head is not None:
        teacher = (teacher_hidden.detach(), teacher_head.detached())
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
        teacher: tuple[Tensor, Head] | None,
        labels: Tensor,
        kept: Tensor,
        rule: Rule,
        chunk_rows: int | None,
        with_gradients: bool,
    ) -> tuple[Tensor, ...]:
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        needed = [with_gradients and need for need in ctx.needs_input_grad[:3]]
        gradients = Gradients.zeros(hidden, weight, bias, dtype, needed)
        work = _Work(head.detached(), teacher, rule, dtype, hidden.device)
        rows = chunk_rows or work.rows_within(BUFFER_BYTES)
        outputs = work.outputs(hidden.shape[0])
        for start in range(0, hidden.shape[0], rows):
            chunk = slice(start, start + rows)
            work.run(chunk, hidden[chunk], labels[chunk], kept[chunk], outputs, gradients)
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


@dataclass(frozen=True)
class _TeacherSums:
    """The teacher on a chunk: p_T (n, V_T), and per token (n,) what the loss needs of it.

    `expected_logit` is sum(p_T * z_S), `negative_entropy` sum(p_T * log p_T), `label` p_T[l] and
    `highest` max p_T.
    """

    probabilities: Tensor
    expected_logit: Tensor
    negative_entropy: Tensor
    label: Tensor
    highest: Tensor


class _Work:
    """The buffers of one call and the arithmetic of one chunk."""

    def __init__(
        self,
        head: Head,
        teacher: tuple[Tensor, Head] | None,
        rule: Rule,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.rule, self.dtype, self.device = rule, dtype, device
        self.head = _in_dtype(head, dtype)
        self.teacher_hidden = None if teacher is None else teacher[0]
        self.teacher_head = None if teacher is None else _in_dtype(teacher[1], dtype)
        self.buffer_count = 2 if teacher is None else 3
        self.buffers: list[Tensor] = []

    def rows_within(self, memory: int) -> int:
        """Tokens of a chunk whose logit buffers fit in `memory` bytes."""
        row = self.head.size * self.buffer_count * self.dtype.itemsize
        return max(LEAST_ROWS, memory // row)

    def outputs(self, tokens: int) -> tuple[Tensor, ...]:
        """Per token: loss, negative log-likelihood, forward KL, teacher is right, mixing."""
        values = [torch.zeros(tokens, dtype=self.dtype, device=self.device) for _ in range(5)]
        values[3] = values[3].bool()
        return tuple(values)

    def run(
        self,
        chunk: slice,
        hidden: Tensor,
        labels: Tensor,
        kept: Tensor,
        outputs: tuple[Tensor, ...],
        gradients: Gradients,
    ) -> None:
        """Fill this chunk's rows of the outputs and add its part of the gradients."""
        loss, likelihood, forward_kl, right, mixing_out = (output[chunk] for output in outputs)
        hidden = hidden.detach().to(self.dtype)
        safe_labels = labels.masked_fill(~kept, 0)
        first, second, third = self._buffers(hidden.shape[0])

        z_student = _logits(self.head, hidden, out=first)
        student_label = _at(z_student, safe_labels)
        teacher = self._teacher_sums(chunk, z_student, safe_labels, second, third)
        # The teacher's logits are used up: their buffer serves the student's probabilities.
        p_student, lse_student = _softmax(z_student, out=second)
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
        weight = weight.where(kept, 0.0)
        cross_entropy = lse_student - (1 - mixing) * expected_logit - mixing * student_label
        loss.copy_((weight * cross_entropy).where(kept, 0.0))
        likelihood.copy_((lse_student - student_label).where(kept, 0.0))
        mixing_out.copy_(mixing.where(kept, 0.0))

        if gradients.any:
            p_teacher = None if teacher is None else teacher.probabilities
            logit_gradient = _logit_gradient(
                p_student, p_teacher, mixing, safe_labels, z_student, self.head
            )
            gradients.add(chunk, logit_gradient, hidden, weight, self.head)

    def _teacher_sums(
        self,
        chunk: slice,
        z_student: Tensor,
        labels: Tensor,
        logit_buffer: Tensor,
        probability_buffer: Tensor,
    ) -> "_TeacherSums | None":
        """All that the loss needs of the teacher; None without one."""
        if self.teacher_hidden is None or self.teacher_head is None:
            return None
        size = self.teacher_head.size
        hidden = self.teacher_hidden[chunk].to(self.dtype)
        logits = _logits(self.teacher_head, hidden, out=logit_buffer)
        probabilities, lse = _softmax(logits, out=probability_buffer)
        # A label that the teacher's vocabulary lacks has no probability there.
        known = labels < size
        label = (_at(logits, labels.where(known, 0)) - lse).exp().where(known, 0.0)
        return _TeacherSums(
            probabilities=probabilities,
            expected_logit=torch.linalg.vecdot(probabilities, z_student[:, :size]),
            negative_entropy=torch.linalg.vecdot(probabilities, logits) - lse,
            label=label,
            highest=(logits.amax(1) - lse).exp(),
        )

    def _buffers(self, rows: int) -> list[Tensor]:
        """Three (rows, V) buffers, reused by every chunk: allocating would cost the most."""
        if not self.buffers:
            self.buffers = [
                torch.empty(rows * self.head.size, dtype=self.dtype, device=self.device)
                for _ in range(self.buffer_count)
            ]
            # Without a teacher nothing is written to the third.
            self.buffers += self.buffers[-1:] * (3 - self.buffer_count)
        return [buffer[: rows * self.head.size] for buffer in self.buffers]


def _in_dtype(head: Head, dtype: torch.dtype) -> Head:
    bias = None if head.bias is None else head.bias.to(dtype)
    return replace(head, weight=head.weight.to(dtype), bias=bias)


def _logits(head: Head, hidden: Tensor, out: Tensor) -> Tensor:
    """`head.logits(hidden)` written into the flat buffer `out`."""
    z = out[: hidden.shape[0] * head.size].view(-1, head.size)
    torch.mm(hidden, head.weight.T, out=z)
    if head.bias is not None:
        z.add_(head.bias)
    if head.scale != 1.0:
        z.mul_(head.scale)
    if head.soft_cap is not None:
        z.div_(head.soft_cap).tanh_().mul_(head.soft_cap)
    return z


def _softmax(z: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(z) written into the flat buffer `out`, and logsumexp(z) of shape (n,)."""
    probabilities = out[: z.numel()].view_as(z)
    torch.softmax(z, 1, out=probabilities)
    # The largest probability is at least 1/V, so its logarithm is exact to rounding.
    return probabilities, z.amax(1) - probabilities.amax(1).log()


def _at(rows: Tensor, labels: Tensor) -> Tensor:
    return rows.gather(1, labels.unsqueeze(1)).squeeze(1)


def _logit_gradient(
    p_student: Tensor,
    teacher_probabilities: Tensor | None,
    mixing: Tensor,
    labels: Tensor,
    z_student: Tensor,
    head: Head,
) -> Tensor:
    """p_S - (1 - m) * p_T - m * one_hot(l), through the soft cap, written over p_S."""
    gradient = p_student
    if teacher_probabilities is not None:
        on_teacher = gradient[:, : teacher_probabilities.shape[1]]
        on_teacher.addcmul_(teacher_probabilities, (1 - mixing).unsqueeze(1), value=-1)
    gradient.scatter_add_(1, labels.unsqueeze(1), -mixing.unsqueeze(1))
    if head.soft_cap is not None:
        # d z / d a = 1 - tanh(a / c)^2, and tanh(a / c) = z / c; z is not needed afterwards.
        slope = z_student.div_(head.soft_cap).square_().neg_().add_(1)
        gradient.mul_(slope)
    return gradient
