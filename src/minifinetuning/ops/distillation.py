"""The one op that every objective trains through: output head, softmax, mixture and loss in one."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from minifinetuning.objectives import Rule
from minifinetuning.ops.chunked import chunked_distillation
from minifinetuning.ops.fused import fused_distillation, has_triton
from minifinetuning.ops.head import Head, whole_logits
from minifinetuning.ops.outputs import Distillation
from minifinetuning.ops.reference import reference_distillation
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
    impl: Literal["auto", "reference", "chunked", "fused"] = "auto",
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
    half of the work is not done at all. What a rule asks of the student's logits beyond p_S[l] is
    computed when it asks.

    `impl`: "reference" holds full logits, "chunked" and "fused" never do; "fused" has kernels for a
    GPU, written in Triton. "auto" is "fused" on a CUDA device where Triton can be imported, else
    "chunked".
    Raises ValueError where shapes do not fit, for an expected embedding where the head is trained
    or soft-capped, for a `BatchRule` not yet bound to a batch, and for "fused" where Triton cannot
    run.
    Source: algorithm 1 and section 2 of the paper.
    """
    _check_shapes(student_hidden, student_head, labels, teacher)
    device = student_hidden.device.type
    if impl == "auto":
        impl = "fused" if device == "cuda" and has_triton() else "chunked"
    if impl not in _IMPLEMENTATIONS:
        raise ValueError(f"impl must be auto, reference, chunked or fused, got {impl!r}")
    function = _IMPLEMENTATIONS[impl]
    if impl == "fused" and torch.is_autocast_enabled(device):
        # Its products round their factors as autocast would, and nothing else.
        function = partial(function, product_dtype=torch.get_autocast_dtype(device))
    with whole_logits(device):
        return function(student_hidden, student_head, labels, rule, teacher, ignore_index)


_IMPLEMENTATIONS: dict[str, Callable[..., Distillation]] = {
    "reference": reference_distillation,
    "chunked": chunked_distillation,
    "fused": fused_distillation,
}


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
