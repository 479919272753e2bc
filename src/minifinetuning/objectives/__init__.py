"""Training objectives as rules: from a few scalars per token to a mixing share m and a weight w.

Every objective trains the student's next-token distribution p_S towards a mixture of the frozen
teacher's distribution p_T and the label l, with a weight per token:

    q = (1 - m) * p_T + m * one_hot(l)
    loss = w * cross_entropy(q, p_S)            d loss / d z_S = w * (p_S - q)

so that an objective is no more than a rule (m, w). Nothing else in the project knows which runs.
"""

from minifinetuning.objectives.names import OBJECTIVES, has_kl_weight, has_tau, needs_teacher, rule
from minifinetuning.objectives.paper import (
    check_tau,
    correct_distribution,
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
from minifinetuning.objectives.rules import BatchRule, Rule, TokenProbabilities

__all__ = [
    "OBJECTIVES",
    "BatchRule",
    "Rule",
    "TokenProbabilities",
    "anchored_finetuning",
    "check_kl_weight",
    "check_tau",
    "correct_distribution",
    "corrective_finetuning",
    "distillation",
    "dynamic_finetuning",
    "entropy_adaptive_finetuning",
    "finetuning",
    "has_kl_weight",
    "has_tau",
    "kl_finetuning",
    "masked_target_finetuning",
    "median_sequence_loss",
    "minifinetuning",
    "needs_teacher",
    "rule",
    "selective_masking",
    "single_correction",
    "token_adaptive_finetuning",
]
