"""What the op may be given of the teacher, and what the loss needs of that on a few tokens."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from minifinetuning.ops.head import Head, whole_logits

__all__ = [
    "ExpectedEmbedding",
    "TeacherStates",
    "TeacherTerms",
    "expected_embedding",
    "expected_terms",
    "states_terms",
]

_BLOCK_ROWS = 256
"""Tokens whose logits are held at a time while expectations are computed."""


@dataclass(frozen=True)
class TeacherStates:
    """The teacher as hidden states (N, H_T) and output head (V_T, H_T)."""

    hidden: Tensor
    head: Head

    def __getitem__(self, rows: slice) -> "TeacherStates":
        return TeacherStates(self.hidden[rows], self.head)


@dataclass(frozen=True)
class ExpectedEmbedding:
    """The teacher as its expected output embedding, for a student whose head W, b is frozen.

        embedding = sum_i p_T[i] * W[i]     bias = sum_i p_T[i] * b[i]
        sum_i p_T[i] * z_S[i] = scale * (h_S . embedding + bias)

    so that a step has no work on the teacher's vocabulary at all: beside this it needs of p_T only
    `label` p_T[l], `highest` max_i p_T[i] and `negative_entropy` sum(p_T * log p_T) in nats.
    `embedding` is (N, H), the rest (N,) in float32 or better; `label` belongs to the labels that
    it was computed with. Exact for any constant scale; a soft cap rules it out.
    """

    embedding: Tensor
    bias: Tensor
    label: Tensor
    highest: Tensor
    negative_entropy: Tensor

    def __getitem__(self, rows: slice) -> "ExpectedEmbedding":
        return ExpectedEmbedding(*(value[rows] for value in vars(self).values()))


def expected_embedding(hidden: Tensor, head: Head, labels: Tensor) -> ExpectedEmbedding:
    """The expected embedding of hidden states (N, H) under their own head, in float32 or better.

    `labels` (N,): where one is ignored (negative) or beyond the head, `label` is 0.
    Raises ValueError for a head with a soft cap: its logits are not linear in the embedding.
    """
    if head.soft_cap is not None:
        raise ValueError("a soft-capped head has no expected embedding: use the hidden states")
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    head = head.detached()
    head = replace(head, weight=head.weight.to(dtype))  # Once, not for every block.
    with whole_logits(hidden.device.type):
        parts = [
            _expectation(hidden[rows], head, labels[rows])
            for rows in map(_block, range(0, max(len(hidden), 1), _BLOCK_ROWS))
        ]
    return ExpectedEmbedding(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _block(start: int) -> slice:
    return slice(start, start + _BLOCK_ROWS)


def _expectation(hidden: Tensor, head: Head, labels: Tensor) -> tuple[Tensor, ...]:
    """The fields of an `ExpectedEmbedding` for a few tokens."""
    log_probabilities = torch.log_softmax(head.logits(hidden), 1)
    probabilities = log_probabilities.exp()
    dtype = probabilities.dtype
    known = (labels >= 0) & (labels < head.size)
    at_label = probabilities.gather(1, labels.where(known, 0).unsqueeze(1)).squeeze(1)
    bias = probabilities.new_zeros(len(hidden))
    if head.bias is not None:
        bias = probabilities @ head.bias.to(dtype)
    return (
        probabilities @ head.weight,
        bias,
        at_label.where(known, 0.0),
        probabilities.amax(1),
        -torch.special.entr(probabilities).sum(1),
    )


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
