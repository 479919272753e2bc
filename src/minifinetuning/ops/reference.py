"""The distillation op as one reads it in the paper: full logits, plain torch, autograd."""

import torch
from torch import Tensor

from minifinetuning.objectives import Rule, TokenProbabilities
from minifinetuning.ops.head import Head
from minifinetuning.ops.result import Distillation

__all__ = ["reference_distillation"]


def reference_distillation(
    student_hidden: Tensor,
    student_head: Head,
    labels: Tensor,
    rule: Rule,
    teacher_hidden: Tensor | None = None,
    teacher_head: Head | None = None,
    ignore_index: int = -100,
) -> Distillation:
    """See `linear_distillation`. Holds several (N, V) tensors: for tests."""
    kept = labels != ignore_index
    safe_labels = labels.masked_fill(~kept, 0).unsqueeze(1)
    student = torch.log_softmax(student_head.logits(student_hidden), dim=1)
    student_label = student.gather(1, safe_labels).squeeze(1)

    if teacher_hidden is None or teacher_head is None:
        mixing, weight = rule(TokenProbabilities(student_label.detach().exp()))
        loss = -weight * mixing * student_label
        return Distillation(
            loss=loss.where(kept, 0.0).sum(),
            tokens=kept.sum(),
            negative_log_likelihood=-student_label.detach().where(kept, 0.0),
        )

    with torch.no_grad():
        teacher = torch.log_softmax(teacher_head.logits(teacher_hidden), dim=1)
        teacher = _on_vocabulary(teacher, student_head.size)
        tokens = TokenProbabilities(
            student_label=student_label.detach().exp(),
            teacher_label=teacher.gather(1, safe_labels).squeeze(1).exp(),
            teacher_max=teacher.amax(1).exp(),
        )
        mixing, weight = rule(tokens)
    student_cross_entropy = -(teacher.exp() * student).sum(1)
    teacher_entropy = -torch.special.xlogy(teacher.exp(), teacher.exp()).sum(1)
    loss = weight * ((1 - mixing) * student_cross_entropy - mixing * student_label)
    return Distillation(
        loss=loss.where(kept, 0.0).sum(),
        tokens=kept.sum(),
        negative_log_likelihood=-student_label.detach().where(kept, 0.0),
        forward_kl=(student_cross_entropy.detach() - teacher_entropy).where(kept, 0.0),
        teacher_is_right=tokens.teacher_is_right & kept,
        mixing=mixing.where(kept, 0.0),
    )


def _on_vocabulary(log_probabilities: Tensor, size: int) -> Tensor:
    """(N, V_T) over the student's V >= V_T entries: what the teacher lacks has probability 0."""
    missing = size - log_probabilities.shape[1]
    return torch.nn.functional.pad(log_probabilities, (0, missing), value=float("-inf"))
