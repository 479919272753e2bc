"""The paper's own objectives: finetuning, minifinetuning and the rungs between them.

Section numbers refer to "Minifinetuning: Low-Data Generation Domain Adaptation through Corrective
Self-Distillation" (Belcak, Heinrich, Kautz, Molchanov; NVIDIA Research).
"""

import torch
from torch import Tensor

from minifinetuning.objectives.rules import TokenProbabilities

__all__ = [
    "check_tau",
    "correct_distribution",
    "corrective_finetuning",
    "distillation",
    "finetuning",
    "minifinetuning",
    "single_correction",
]


def finetuning(tokens: TokenProbabilities) -> tuple[Tensor, Tensor]:
    """Plain finetuning on hard labels (FT): m = 1, w = 1. Needs no teacher."""
    ones = torch.ones_like(tokens.student_label)
    return ones, ones


def distillation(tokens: TokenProbabilities) -> tuple[Tensor, Tensor]:
    """Distillation alone, the label is not used (as in LwF): m = 0, w = 1."""
    label, _ = tokens.teacher()
    return torch.zeros_like(label), torch.ones_like(label)


def corrective_finetuning(tokens: TokenProbabilities) -> tuple[Tensor, Tensor]:
    """Distil where the teacher is right, finetune where it is not: m = 0 or 1, w = 1.

    The rung "+ distillation" of the paper's ablation (section 4, table 3).
    """
    right = tokens.teacher_is_right
    mixing = torch.where(right, 0.0, 1.0).to(tokens.student_label.dtype)
    return mixing, torch.ones_like(mixing)


def single_correction(tokens: TokenProbabilities, tau: float) -> tuple[Tensor, Tensor]:
    """Distil where the teacher is right, correct where it is not: m = 0 or alpha, w = 1.

    The rung "+ partial correction" of the paper's ablation (section 4, table 3: beta fixed at 0).
    """
    label, highest = tokens.teacher()
    mixing = torch.where(
        tokens.teacher_is_right, torch.zeros_like(label), _alpha(label, highest, tau)
    )
    return mixing, torch.ones_like(mixing)


def minifinetuning(tokens: TokenProbabilities, tau: float) -> tuple[Tensor, Tensor]:
    """Minifinetuning (MFT), corrective self-distillation on every token (section 2): w = 1 and

        m = beta  = min(1, tau / (1 - p_l))                     where the teacher is right
        m = alpha = (p_max - p_l + tau) / (1 + p_max - p_l)     where it is not

    With alpha the label leads the teacher's favourite by exactly tau; with beta it gains tau.
    tau = 1 is finetuning exactly.
    """
    label, highest = tokens.teacher()
    mixing = torch.where(tokens.teacher_is_right, _beta(label, tau), _alpha(label, highest, tau))
    return mixing, torch.ones_like(mixing)


def _alpha(label: Tensor, highest: Tensor, tau: float) -> Tensor:
    gap = highest - label
    return (gap + tau) / (1 + gap)


def _beta(label: Tensor, tau: float) -> Tensor:
    # A teacher that is certain (p_l = 1) leaves 0/0; any m then gives the same target, so the room
    # is kept above zero and the quotient stays finite.
    room = (1 - label).clamp(min=torch.finfo(label.dtype).tiny)
    return (tau / room).clamp(max=1.0)


def correct_distribution(teacher_probabilities: Tensor, labels: Tensor, tau: float) -> Tensor:
    """The corrected distribution DC(p_T) that minifinetuning trains towards (section 2).

        DC(p_T) = (1 - m) * p_T + m * one_hot(l),       m as in `minifinetuning`

    `teacher_probabilities` is (..., V) and sums to one over V, `labels` is (...) of token ids; the
    result is (..., V). For people and tests: training itself never holds this tensor.
    Raises ValueError for tau outside [0, 1].
    """
    check_tau(tau)
    label = teacher_probabilities.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    tokens = TokenProbabilities(label, label, teacher_probabilities.amax(-1))
    mixing, _ = minifinetuning(tokens, tau)
    corrected = (1 - mixing).unsqueeze(-1) * teacher_probabilities
    return corrected.scatter_add(-1, labels.unsqueeze(-1), mixing.unsqueeze(-1))


def check_tau(tau: float) -> None:
    """Raise ValueError unless tau is a probability mass: 0 <= tau <= 1."""
    if not 0.0 <= tau <= 1.0:
        raise ValueError(f"tau must be between 0 and 1, got {tau}: 0.25 is the paper's value")
