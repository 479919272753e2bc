"""What the op gives: the loss, and of each token what the sums over its vocabulary say."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from minifinetuning.objectives import Rule, TokenProbabilities
from minifinetuning.ops.teacher import TeacherTerms

__all__ = ["Distillation", "TokenOutputs", "top_logits"]


@dataclass(frozen=True)
class Distillation:
    """The loss and what is worth logging about each token.

    `loss` is the *sum* over tokens of w * CE(q, p_S), in nats: a scalar, attached to the graph.
    `tokens` is the number of labels that are not ignored: a scalar tensor, so that asking for it
    does not wait for the device. The rest is (N,), detached, zero at ignored labels:
    `negative_log_likelihood` -log p_S[l] in nats; and, None without a teacher, `forward_kl`
    KL(p_T || p_S) in nats, `teacher_is_right` (bool), `mixing` the rule's m.
    """

    loss: Tensor
    tokens: Tensor
    negative_log_likelihood: Tensor
    forward_kl: Tensor | None = None
    teacher_is_right: Tensor | None = None
    mixing: Tensor | None = None


@dataclass(frozen=True)
class TokenOutputs:
    """Per token (N,), zero at ignored labels: the loss, the rule's w and m, and what is logged."""

    loss: Tensor
    weight: Tensor
    mixing: Tensor
    negative_log_likelihood: Tensor
    forward_kl: Tensor
    teacher_is_right: Tensor

    @classmethod
    def zeros(cls, tokens: int, dtype: torch.dtype, device: torch.device) -> "TokenOutputs":
        def numbers() -> Tensor:
            return torch.zeros(tokens, dtype=dtype, device=device)

        right = torch.zeros(tokens, dtype=torch.bool, device=device)
        return cls(numbers(), numbers(), numbers(), numbers(), numbers(), right)

    def __getitem__(self, rows: slice) -> "TokenOutputs":
        return TokenOutputs(*(value[rows] for value in vars(self).values()))

    def fill(
        self,
        rule: Rule,
        kept: Tensor,
        lse_student: Tensor,
        student_label: Tensor,
        student_top_logits: Callable[[int], Tensor],
        teacher: TeacherTerms | None,
    ) -> None:
        """From the logsumexp of z_S, z_S[l] and the teacher's terms; `kept` is not ignored.

        loss = w * (lse(z_S) - (1 - m) * sum(p_T * z_S) - m * z_S[l])

        `student_top_logits(k)` is for a rule that asks for more of z_S: see `TokenProbabilities`.
        """
        p_label = (student_label - lse_student).exp()
        if teacher is None:
            tokens = TokenProbabilities(p_label, student_top_logits=student_top_logits)
            expected_logit = torch.zeros_like(p_label)
        else:
            tokens = TokenProbabilities(p_label, teacher.label, teacher.highest, student_top_logits)
            expected_logit = teacher.expected_logit
            divergence = teacher.negative_entropy - expected_logit + lse_student
            self.forward_kl.copy_(divergence.where(kept, 0.0))
            self.teacher_is_right.copy_(tokens.teacher_is_right & kept)

        mixing, weight = rule(tokens)
        cross_entropy = lse_student - (1 - mixing) * expected_logit - mixing * student_label
        self.loss.copy_((weight * cross_entropy).where(kept, 0.0))
        self.weight.copy_(weight.where(kept, 0.0))
        self.mixing.copy_(mixing.where(kept, 0.0))
        self.negative_log_likelihood.copy_((lse_student - student_label).where(kept, 0.0))


def top_logits(logits: Tensor, count: int) -> Tensor:
    """The `count` largest of each row of (n, V), or all: (n, min(count, V)), in any order."""
    return torch.topk(logits, min(count, logits.shape[1]), dim=1, sorted=False).values
