"""What the loss needs of the teacher on a few tokens, from its logits or its expected embedding."""

from dataclasses import dataclass

import torch
from torch import Tensor

from minifinetuning.ops.teacher import ExpectedEmbedding

__all__ = ["TeacherTerms", "expected_terms", "states_terms"]


@dataclass(frozen=True)
class TeacherTerms:
    """Per token (n,): `expected_logit` sum(p_T * z_S), `negative_entropy` sum(p_T * log p_T),
    `label` p_T[l] and `highest` max p_T. `probabilities` p_T (n, V_T) are None where the gradient
    gets the teacher's part by its expected embedding.
    """

    expected_logit: Tensor
    negative_entropy: Tensor
    label: Tensor
    highest: Tensor
    probabilities: Tensor | None = None

    def __getitem__(self, rows: slice) -> "TeacherTerms":
        return TeacherTerms(
            self.expected_logit[rows],
            self.negative_entropy[rows],
            self.label[rows],
            self.highest[rows],
        )


def states_terms(z_teacher: Tensor, z_student: Tensor, labels: Tensor, out: Tensor) -> TeacherTerms:
    """From the logits (n, V_T) and (n, V), V_T <= V; p_T is written into `out` (n, V_T)."""
    size = z_teacher.shape[1]
    highest = z_teacher.amax(1)
    probabilities = torch.softmax(z_teacher, 1, out=out)
    lse = highest - probabilities.amax(1).log()
    # A label that the teacher's vocabulary lacks has no probability there.
    known = labels < size
    at_label = z_teacher.gather(1, labels.where(known, 0).unsqueeze(1)).squeeze(1)
    return TeacherTerms(
        expected_logit=torch.linalg.vecdot(probabilities, z_student[:, :size]),
        negative_entropy=torch.linalg.vecdot(probabilities, z_teacher) - lse,
        label=(at_label - lse).exp().where(known, 0.0),
        highest=(highest - lse).exp(),
        probabilities=probabilities,
    )


def expected_terms(
    teacher: ExpectedEmbedding, chunk: slice, hidden: Tensor, scale: float
) -> TeacherTerms:
    """For the student's hidden states (n, H) of a chunk and the scale of its head."""
    dtype = hidden.dtype
    product = torch.linalg.vecdot(hidden, teacher.embedding[chunk].to(dtype))
    return TeacherTerms(
        expected_logit=scale * (product + teacher.bias[chunk].to(dtype)),
        negative_entropy=teacher.negative_entropy[chunk].to(dtype),
        label=teacher.label[chunk].to(dtype),
        highest=teacher.highest[chunk].to(dtype),
    )
