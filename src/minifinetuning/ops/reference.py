"""The distillation op as one reads it in the paper: full logits, plain torch, autograd."""

from functools import partial

import torch
from torch import Tensor

from minifinetuning.objectives import Rule, TokenProbabilities
from minifinetuning.ops.head import Head
from minifinetuning.ops.outputs import Distillation, top_logits
from minifinetuning.ops.teacher import ExpectedEmbedding, TeacherStates

__all__ = ["reference_distillation"]


def reference_distillation(
    student_hidden: Tensor,
    student_head: Head,
    labels: Tensor,
    rule: Rule,
    teacher: TeacherStates | ExpectedEmbedding | None = None,
    ignore_index: int = -100,
) -> Distillation:
    """See `linear_distillation`. Holds several (N, V) tensors: for tests."""
    kept = labels != ignore_index
    safe_labels = labels.masked_fill(~kept, 0).unsqueeze(1)
    logits = student_head.logits(student_hidden)
    student = torch.log_softmax(logits, dim=1)
    student_label = student.gather(1, safe_labels).squeeze(1)
    student_top_logits = partial(top_logits, logits.detach())

    if teacher is None:
        tokens = TokenProbabilities(
            student_label.detach().exp(), student_top_logits=student_top_logits
        )
        mixing, weight = rule(tokens)
        loss = -weight * mixing * student_label
        return Distillation(
            loss=loss.where(kept, 0.0).sum(),
            tokens=kept.sum(),
            negative_log_likelihood=-student_label.detach().where(kept, 0.0),
        )

    if isinstance(teacher, ExpectedEmbedding):
        label, highest = teacher.label, teacher.highest
        negative_entropy = teacher.negative_entropy
        product = (student_hidden * teacher.embedding).sum(1) + teacher.bias
        cross_entropy = torch.logsumexp(logits, 1) - student_head.scale * product
    else:
        with torch.no_grad():
            log_p = torch.log_softmax(teacher.head.logits(teacher.hidden), dim=1)
            log_p = _on_vocabulary(log_p, student_head.size)
            p_teacher = log_p.exp()
            label, highest = p_teacher.gather(1, safe_labels).squeeze(1), p_teacher.amax(1)
            negative_entropy = torch.special.xlogy(p_teacher, p_teacher).sum(1)
        cross_entropy = -(p_teacher * student).sum(1)
    tokens = TokenProbabilities(student_label.detach().exp(), label, highest, student_top_logits)
    mixing, weight = rule(tokens)
    loss = weight * ((1 - mixing) * cross_entropy - mixing * student_label)
    return Distillation(
        loss=loss.where(kept, 0.0).sum(),
        tokens=kept.sum(),
        negative_log_likelihood=-student_label.detach().where(kept, 0.0),
        forward_kl=(cross_entropy.detach() + negative_entropy).where(kept, 0.0),
        teacher_is_right=tokens.teacher_is_right & kept,
        mixing=mixing.where(kept, 0.0),
    )


def _on_vocabulary(log_probabilities: Tensor, size: int) -> Tensor:
    """(N, V_T) over the student's V >= V_T entries: what the teacher lacks has probability 0."""
    missing = size - log_probabilities.shape[1]
    return torch.nn.functional.pad(log_probabilities, (0, missing), value=float("-inf"))
