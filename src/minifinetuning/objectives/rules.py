"""What a rule is: from a few scalars per token to a mixing share m and a weight w."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["BatchRule", "Rule", "TokenProbabilities"]


@dataclass(frozen=True)
class TokenProbabilities:
    """What a rule may look at: one value per token, each (N,), float32 or better, detached.

    `student_label` is p_S[l], `teacher_label` is p_T[l], `teacher_max` is max_i p_T[i].
    The teacher's two are None where the objective runs without a teacher.
    `student_top_logits(k)` is what `student_entropy` is computed from, the k largest logits of each
    token (N, min(k, V)) in any order: it costs a pass over the vocabulary, so that only a rule that
    asks pays for it, and may be called only while the rule runs.
    """

    student_label: Tensor
    teacher_label: Tensor | None = None
    teacher_max: Tensor | None = None
    student_top_logits: Callable[[int], Tensor] | None = None

    @property
    def teacher_is_right(self) -> Tensor:
        """(N,) bool: the label is the teacher's most probable token; a tie counts as right."""
        label, highest = self.teacher()
        return label >= highest

    def teacher(self) -> tuple[Tensor, Tensor]:
        """(p_T[l], max p_T), each (N,). Raises ValueError where there is no teacher."""
        if self.teacher_label is None or self.teacher_max is None:
            raise ValueError("this objective needs a teacher, and none was given")
        return self.teacher_label, self.teacher_max

    def student_entropy(self, count: int) -> Tensor:
        """(N,) in nats: the entropy of p_S's `count` most probable tokens, made to sum to one.

        Raises ValueError where the student's logits are out of reach.
        """
        if self.student_top_logits is None:
            raise ValueError("this objective needs the student's logits, and none were given")
        probabilities = torch.softmax(self.student_top_logits(count), 1)
        entropy: Tensor = torch.special.entr(probabilities).sum(1)
        return entropy


Rule = Callable[[TokenProbabilities], tuple[Tensor, Tensor]]
"""From the scalars of N tokens to (m, w), each of shape (N,). N is any part of a batch."""


@dataclass(frozen=True)
class BatchRule:
    """A rule with a statistic of the whole batch in it, of which a rule only ever sees a part.

    `of_batch(losses, kept)` is the rule of one batch, from -log p_S[l] in nats, detached, and
    whether each label counts, both (B, T). Called before that it raises ValueError.
    """

    of_batch: Callable[[Tensor, Tensor], Rule]

    def __call__(self, tokens: TokenProbabilities) -> tuple[Tensor, Tensor]:
        raise ValueError("this objective needs its batch first: take the rule that of_batch gives")
