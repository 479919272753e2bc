"""The op as one step of autograd: gradients are computed with the loss, chunk by chunk of tokens.

The loss needs of the vocabulary only a few sums per token. With lse the logsumexp of a row,

    loss = w * (lse(z_S) - (1 - m) * sum(p_T * z_S) - m * z_S[l])
    d loss / d z_S = w * (p_S - (1 - m) * p_T - m * one_hot(l))
    KL(p_T || p_S) = sum(p_T * log p_T) - sum(p_T * z_S) + lse(z_S)

so a chunk's logits are used up, gradients included, before the next chunk is begun, and no (N, V)
tensor is held. How a chunk is computed is an `Arithmetic`.
"""

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minifinetuning.ops.gradients import Gradients
from minifinetuning.ops.head import Head
from minifinetuning.ops.outputs import Distillation, TokenOutputs

__all__ = ["Arithmetic", "distillation_in_chunks"]


class Arithmetic(Protocol):
    """The computation of one chunk after the other, with what it needs of the teacher in it."""

    def chunk_rows(self, tokens: int) -> int:
        """Tokens of a chunk."""
        ...

    def run(
        self,
        chunk: slice,
        hidden: Tensor,
        labels: Tensor,
        kept: Tensor,
        outputs: TokenOutputs,
        gradients: Gradients,
    ) -> None:
        """Fill the chunk's outputs and add its part of the gradients.

        `hidden` (n, H) are the student's, in their own dtype; `labels` (n,) have a 0 where they
        are not `kept`.
        """
        ...


def distillation_in_chunks(
    arithmetic: Arithmetic,
    student_hidden: Tensor,
    student_head: Head,
    labels: Tensor,
    ignore_index: int,
    chunk_rows: int | None,
    with_teacher: bool,
) -> Distillation:
    """See `linear_distillation`. `chunk_rows` overrides the tokens of a chunk."""
    kept = labels != ignore_index
    loss, likelihood, forward_kl, right, mixing = _DistillationInChunks.apply(
        student_hidden,
        student_head.weight,
        student_head.bias,
        labels.masked_fill(~kept, 0),
        kept,
        arithmetic,
        chunk_rows or arithmetic.chunk_rows(len(labels)),
        torch.is_grad_enabled(),
    )
    return Distillation(
        loss=loss,
        tokens=kept.sum(),
        negative_log_likelihood=likelihood,
        forward_kl=forward_kl if with_teacher else None,
        teacher_is_right=right if with_teacher else None,
        mixing=mixing if with_teacher else None,
    )


class _DistillationInChunks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        kept: Tensor,
        arithmetic: Arithmetic,
        chunk_rows: int,
        with_gradients: bool,
    ) -> tuple[Tensor, ...]:
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        needed = [with_gradients and need for need in ctx.needs_input_grad[:3]]
        gradients = Gradients.zeros(hidden, weight, bias, dtype, needed)
        outputs = TokenOutputs.zeros(len(labels), dtype, hidden.device)
        for start in range(0, len(labels), chunk_rows):
            chunk = slice(start, start + chunk_rows)
            arithmetic.run(
                chunk,
                hidden[chunk].detach(),
                labels[chunk],
                kept[chunk],
                outputs[chunk],
                gradients,
            )
        ctx.save_for_backward(gradients.hidden, gradients.weight, gradients.bias)
        ctx.dtypes = [None if t is None else t.dtype for t in (hidden, weight, bias)]
        logged = (
            outputs.negative_log_likelihood,
            outputs.forward_kl,
            outputs.teacher_is_right,
            outputs.mixing,
        )
        ctx.mark_non_differentiable(*logged)
        return outputs.loss.sum(), *logged

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [
            None if gradient is None else (gradient * loss_gradient).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return (*scaled, *[None] * 5)
