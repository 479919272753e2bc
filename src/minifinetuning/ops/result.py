"""What the distillation op gives back."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Distillation"]


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
