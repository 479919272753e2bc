"""The objectives by the names of the command line."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from minifinetuning.objectives.paper import (
    check_tau,
    corrective_finetuning,
    distillation,
    finetuning,
    minifinetuning,
    single_correction,
)
from minifinetuning.objectives.rivals import (
    anchored_finetuning,
    check_kl_weight,
    dynamic_finetuning,
    entropy_adaptive_finetuning,
    kl_finetuning,
    masked_target_finetuning,
    median_sequence_loss,
    selective_masking,
    token_adaptive_finetuning,
)
from minifinetuning.objectives.rules import BatchRule, Rule

__all__ = ["OBJECTIVES", "has_kl_weight", "has_tau", "needs_teacher", "rule"]

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
    "eaft": entropy_adaptive_finetuning,
    "talr": token_adaptive_finetuning,
}
"""The names of the command line and the configuration."""

_WITHOUT_TEACHER = {
    finetuning,
    dynamic_finetuning,
    entropy_adaptive_finetuning,
    token_adaptive_finetuning,
}
_WITH_TAU = {single_correction, minifinetuning}
_WITH_KL_WEIGHT = {kl_finetuning, anchored_finetuning, masked_target_finetuning}


def rule(objective: str, tau: float = 0.25, kl_weight: float = 0.1) -> Rule:
    """The rule of an objective by name, with tau or the KL's weight bound where it has one.

    That of "talr" is a `BatchRule`: the student's forward binds it to each batch.
    Raises ValueError for an unknown name, for tau outside [0, 1], and for a negative weight.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"unknown objective {objective!r}: choose one of {', '.join(OBJECTIVES)}")
    check_tau(tau)
    check_kl_weight(kl_weight)
    function = OBJECTIVES[objective]
    if function is token_adaptive_finetuning:
        return BatchRule(_token_adaptive_rule)
    if function in _WITH_TAU:
        return partial(function, tau=tau)
    return partial(function, kl_weight=kl_weight) if function in _WITH_KL_WEIGHT else function


def _token_adaptive_rule(losses: Tensor, kept: Tensor) -> Rule:
    return partial(token_adaptive_finetuning, temperature=median_sequence_loss(losses, kept))


def has_tau(objective: str) -> bool:
    """Whether the objective of this name has a tau to choose."""
    return OBJECTIVES[objective] in _WITH_TAU


def has_kl_weight(objective: str) -> bool:
    """Whether the objective of this name weighs a KL to the teacher."""
    return OBJECTIVES[objective] in _WITH_KL_WEIGHT


def needs_teacher(objective: str) -> bool:
    """Whether the objective of this name looks at the teacher's distribution."""
    return OBJECTIVES[objective] not in _WITHOUT_TEACHER
