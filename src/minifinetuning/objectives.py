"""Training objectives as rules: from a few scalars per token to a mixing share m and a weight w.

Every objective trains the student's next-token distribution p_S towards a mixture of the frozen
teacher's distribution p_T and the label l, with a weight per token:

    q = (1 - m) * p_T + m * one_hot(l)
    loss = w * cross_entropy(q, p_S)            d loss / d z_S = w * (p_S - q)

so that an objective is no more than a rule (m, w). Nothing else in the project knows which runs.
The rivals are the published objectives whose gradient is such a rule too.
Section numbers refer to "Minifinetuning: Low-Data Generation Domain Adaptation through Corrective
Self-Distillation" (Belcak, Heinrich, Kautz, Molchanov; NVIDIA Research).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

__all__ = [
    "OBJECTIVES",
    "Rule",
    "TokenProbabilities",
    "anchored_finetuning",
    "check_kl_weight",
    "check_tau",
    "correct_distribution",
    "corrective_finetuning",
    "distillation",
    "dynamic_finetuning",
    "finetuning",
    "kl_finetuning",
    "masked_target_finetuning",
    "minifinetuning",
    "needs_teacher",
    "rule",
    "selective_masking",
    "single_correction",
]


@dataclass(frozen=True)
class TokenProbabilities:
    """What a rule may look at: one value per token, each (N,), float32 or better, detached.

    `student_label` is p_S[l], `teacher_label` is p_T[l], `teacher_max` is max_i p_T[i].
    The teacher's two are None where the objective runs without a teacher.
    """

    student_label: Tensor
    teacher_label: Tensor | None = None
    teacher_max: Tensor | None = None

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


Rule = Callable[[TokenProbabilities], tuple[Tensor, Tensor]]
"""From the scalars of N tokens to (m, w), each of shape (N,)."""


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


# Rivals


def kl_finetuning(tokens: TokenProbabilities, kl_weight: float) -> tuple[Tensor, Tensor]:
    """KL-regularised finetuning, -log p_S[l] + kl_weight * KL(p_T || p_S).

    m = 1 / (1 + kl_weight), w = 1 + kl_weight.
    """
    label, _ = tokens.teacher()
    weight = torch.full_like(label, 1 + kl_weight)
    return 1 / weight, weight


def dynamic_finetuning(tokens: TokenProbabilities) -> tuple[Tensor, Tensor]:
    """DFT (arXiv 2508.05629), -p_S[l] * log p_S[l] with the factor detached: m = 1, w = p_S[l]."""
    return torch.ones_like(tokens.student_label), tokens.student_label


def anchored_finetuning(tokens: TokenProbabilities, kl_weight: float) -> tuple[Tensor, Tensor]:
    """ASFT (arXiv 2509.23753): DFT + kl_weight * KL(p_T || p_S).

    m = p_S[l] / (p_S[l] + kl_weight), w = p_S[l] + kl_weight.
    """
    tokens.teacher()
    weight = tokens.student_label + kl_weight
    return tokens.student_label / _above_zero(weight), weight


def masked_target_finetuning(tokens: TokenProbabilities, kl_weight: float) -> tuple[Tensor, Tensor]:
    """Mask-the-Target (arXiv 2605.29498), whose KL leaves the label to the label's own loss:

        -log p_S[l] + kl_weight * KL(p_T without l || p_S without l)     each made to sum to one
        w = 1 + kl_weight / (1 - p_S[l])        m = 1 - kl_weight / ((1 - p_T[l]) * w)

    The gradient is that of the formula; the loss that is logged, w * CE(q, p_S), differs from it.
    Where one of the two is certain of the label it has no view of the others: m = 1, w = 1.
    """
    label, _ = tokens.teacher()
    room, own_room = _above_zero(1 - label), _above_zero(1 - tokens.student_label)
    weight = 1 + kl_weight / own_room
    mixing = 1 - kl_weight / (room * weight)
    # Nearer to one than this, the dtype no longer tells what is left, and both quotients are noise.
    certain = torch.minimum(room, own_room) <= 64 * torch.finfo(label.dtype).eps
    ones = torch.ones_like(label)
    return torch.where(certain, ones, mixing), torch.where(certain, ones, weight)


def selective_masking(tokens: TokenProbabilities) -> tuple[Tensor, Tensor]:
    """STM (arXiv 2501.14315): tokens of a teacher's perplexity 1 / p_T[l] above 2.5 are left out.

    m = 1, w = 1 where p_T[l] >= 1 / 2.5, else 0. The mean is over all tokens, as everywhere here.
    """
    label, _ = tokens.teacher()
    return torch.ones_like(label), (label >= 1 / _STM_PERPLEXITY).to(label.dtype)


_STM_PERPLEXITY = 2.5


def _above_zero(values: Tensor) -> Tensor:
    return values.clamp(min=torch.finfo(values.dtype).tiny)


# Names


OBJECTIVES: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "ft": finetuning,
    "corrective": corrective_finetuning,
    "single_correction": single_correction,
    "mft": minifinetuning,
    "distillation": distillation,
    "kl": kl_finetuning,
    "dft": dynamic_finetuning,
    "asft": anchored_finetuning,
    "mask_the_target": masked_target_finetuning,
    "stm": selective_masking,
}
"""The names of the command line and the configuration."""

_WITHOUT_TEACHER = {finetuning, dynamic_finetuning}
_WITH_TAU = {single_correction, minifinetuning}
_WITH_KL_WEIGHT = {kl_finetuning, anchored_finetuning, masked_target_finetuning}


def rule(objective: str, tau: float = 0.25, kl_weight: float = 0.1) -> Rule:
    """The rule of an objective by name, with tau or the KL's weight bound where it has one.

    Raises ValueError for an unknown name, for tau outside [0, 1], and for a negative weight.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"unknown objective {objective!r}: choose one of {', '.join(OBJECTIVES)}")
    check_tau(tau)
    check_kl_weight(kl_weight)
    function = OBJECTIVES[objective]
    if function in _WITH_TAU:
        return partial(function, tau=tau)
    return partial(function, kl_weight=kl_weight) if function in _WITH_KL_WEIGHT else function


def needs_teacher(objective: str) -> bool:
    """Whether the objective of this name looks at the teacher's distribution."""
    return OBJECTIVES[objective] not in _WITHOUT_TEACHER


def check_tau(tau: float) -> None:
    """Raise ValueError unless tau is a probability mass: 0 <= tau <= 1."""
    if not 0.0 <= tau <= 1.0:
        raise ValueError(f"tau must be between 0 and 1, got {tau}: 0.25 is the paper's value")


def check_kl_weight(kl_weight: float) -> None:
    """Raise ValueError unless the weight of the KL is a finite number, 0 or above."""
    if not 0.0 <= kl_weight < float("inf"):
        raise ValueError(f"kl_weight must be 0 or above, got {kl_weight}: ASFT's authors use 0.1")


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
