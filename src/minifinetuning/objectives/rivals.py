"""The published objectives whose gradient is that of a rule (m, w), as the paper's own are."""

import math

import torch
from torch import Tensor

from minifinetuning.objectives.rules import TokenProbabilities

__all__ = [
    "anchored_finetuning",
    "check_kl_weight",
    "dynamic_finetuning",
    "entropy_adaptive_finetuning",
    "kl_finetuning",
    "masked_target_finetuning",
    "median_sequence_loss",
    "selective_masking",
    "token_adaptive_finetuning",
]


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


def entropy_adaptive_finetuning(tokens: TokenProbabilities) -> tuple[Tensor, Tensor]:
    """EAFT (arXiv 2601.02151): where the student is certain, of whatever token, it learns less.

    m = 1, w = H / ln 20 with H the entropy of p_S's 20 most probable tokens, made to sum to one.
    Equation 3, in nats; its authors' code rounds ln 20 to 3.0.
    """
    weight = tokens.student_entropy(_EAFT_TOKENS) / math.log(_EAFT_TOKENS)
    return torch.ones_like(weight), weight


_EAFT_TOKENS = 20


def token_adaptive_finetuning(
    tokens: TokenProbabilities, temperature: Tensor | float
) -> tuple[Tensor, Tensor]:
    """TALR (arXiv 2509.20758): the harder a token is for the student, the less it counts.

        m = 1        w = max(p_S[l] ** (1 / temperature), 0.01)

    Up to a factor, p_S[l] ** (1 / T) solves min over w of sum(w * loss) + T * sum(w * log w) with
    sum(w) = 1. The authors publish no code; that a certain token weighs 1, and the bound of 0.01
    that they ask for, are as in the code of DiSC (arXiv 2602.16093), which compares with TALR.
    For the temperature see `median_sequence_loss`.
    """
    probability = tokens.student_label.clamp(max=1)  # Rounded above one, a power would raise it.
    weight = (probability ** (1 / temperature)).clamp(min=_TALR_LEAST_WEIGHT)
    return torch.ones_like(weight), weight


_TALR_LEAST_WEIGHT = 0.01


def median_sequence_loss(losses: Tensor, kept: Tensor) -> Tensor:
    """TALR's temperature: the median over a batch's sequences of their mean -log p_S[l], in nats.

    `losses` and `kept`, whether a label counts, are (B, T); the result is a scalar above zero. Of
    an even number of sequences it is the mean of the middle two; one without a label is left out,
    and where none has a label the temperature, of no consequence then, is 1.
    """
    means = losses.where(kept, 0.0).sum(1) / kept.sum(1)  # 0 / 0 is the NaN that is left out.
    median = torch.nanquantile(means, 0.5).nan_to_num(nan=1.0)
    return _above_zero(median)


def check_kl_weight(kl_weight: float) -> None:
    """Raise ValueError unless the weight of the KL is a finite number, 0 or above."""
    if not 0.0 <= kl_weight < float("inf"):
        raise ValueError(f"kl_weight must be 0 or above, got {kl_weight}: ASFT's authors use 0.1")


def _above_zero(values: Tensor) -> Tensor:
    return values.clamp(min=torch.finfo(values.dtype).tiny)
