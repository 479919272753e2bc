"""The one op that every objective trains through: output head, softmax, mixture and loss in one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from minifinetuning.objectives import Rule
from minifinetuning.ops.chunked import chunked_distillation
from minifinetuning.ops.head import Head
from minifinetuning.ops.reference import reference_distillation
from minifinetuning.ops.result import Distillation
from minifinetuning.ops.teacher import ExpectedEmbedding, TeacherStates

__all__ = ["linear_distillation"]


def linear_distillation(
    student_hidden: Tensor,
    student_head: Head,
    labels: Tensor,
    rule: Rule,
    teacher: TeacherStates | ExpectedEmbedding | None = None,
    *,
    ignore_index: int = -100,
    impl: Literal["auto", "reference", "chunked"] = "auto",
) -> Distillation:
    """Train p_S towards (1 - m) * p_T + m * one_hot(l), straight from the hidden states.

    Equivalent naive code, summed over the tokens whose label is not `ignore_index`:

        z_S, z_T = student_head.logits(student_hidden), teacher.head.logits(teacher.hidden)
        p_S, p_T = softmax(z_S), softmax(z_T)
        m, w = rule(TokenProbabilities(p_S[l], p_T[l], max(p_T)))
        loss = sum(w * cross_entropy((1 - m) * p_T + m * one_hot(l), p_S))

    Shapes: `student_hidden` (N, H) with a head (V, H); `teacher.hidden` (N, H_T) with a head
    (V_T, H_T), V_T <= V (entries that the teacher lacks have p_T = 0); `labels` (N,), already
    shifted: labels[i] is the token that hidden state i predicts. The gradient goes to the student's
    hidden states, weight and bias, each only where it requires one; m and w are constants to it.
    Where the student's head is frozen, the teacher may be its `ExpectedEmbedding`: the same loss
    and gradient, and no work on the teacher's vocabulary. Without a teacher (plain finetuning) its
    half of the work is not done at all.

    `impl`: "reference" holds full logits, "chunked" never does; "auto" is "chunked".
    Raises ValueError where shapes do not fit, and for an expected embedding where the head is
    trained or soft-capped. Source: algorithm 1 and section 2 of the paper.
    """
    _check_shapes(student_hidden, student_head, labels, teacher)
    if impl not in ("auto", "reference", "chunked"):
        raise ValueError(f"impl must be auto, reference or chunked, got {impl!r}")
    function = reference_distillation if impl == "reference" else chunked_distillation
    device = student_hidden.device.type
    # Autocast would round the logits to half precision before the softmax.
    with _fast_products(device), torch.autocast(device, enabled=False):
        return function(student_hidden, student_head, labels, rule, teacher, ignore_index)


@contextmanager
def _fast_products(device: str) -> Iterator[None]:
    """Under bfloat16 autocast on a CPU, let oneDNN multiply the float32 matrices.

    It may round their elements to bfloat16 where the processor gains by it, as autocast would, but
    sums and results stay float32; and it is the faster library where it rounds nothing.
    """
    autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
    if device != "cpu" or autocast != torch.bfloat16:
        yield
        return
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


def _check_shapes(
    student_hidden: Tensor,
    student_head: Head,
    labels: Tensor,
    teacher: TeacherStates | ExpectedEmbedding | None,
) -> None:
    if labels.dim() != 1:
        raise ValueError(f"labels must be (N,), got {tuple(labels.shape)}: flatten them")
    sides = [("student hidden states", student_hidden, student_head)]
    if isinstance(teacher, TeacherStates):
        sides.append(("teacher hidden states", teacher.hidden, teacher.head))
        if teacher.head.size > student_head.size:
            raise ValueError(
                f"the teacher's vocabulary ({teacher.head.size}) is larger than the student's "
                f"({student_head.size})"
            )
    elif isinstance(teacher, ExpectedEmbedding):
        _check_frozen(student_head)
        sides.append(("expected embeddings", teacher.embedding, student_head))
    for name, states, head in sides:
        width = head.weight.shape[1]
        if states.shape != (labels.numel(), width):
            raise ValueError(
                f"{name} must be (N, H) = ({labels.numel()}, {width}), got {tuple(states.shape)}"
            )


def _check_frozen(head: Head) -> None:
    """An expected embedding is one under a head that stays what it was, and is linear."""
    trained = head.weight.requires_grad or (head.bias is not None and head.bias.requires_grad)
    if trained and torch.is_grad_enabled():
        raise ValueError("the student's head is trained: its teacher must be TeacherStates")
    if head.soft_cap is not None:
        raise ValueError("the student's head is soft-capped: its teacher must be TeacherStates")
