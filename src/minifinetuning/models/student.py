"""The student: a causal model whose own forward runs the distillation op.

The loss has to run inside the forward that data parallel wrappers wrap: outside it DDP's reducer is
not armed and FSDP2 mixes sharded and whole tensors.
"""

from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from minifinetuning.models.causal import hidden_states, output_head, predicting
from minifinetuning.objectives import BatchRule, Rule, finetuning
from minifinetuning.ops import ExpectedEmbedding, Head, TeacherStates, linear_distillation

__all__ = ["DistillationInputs", "DistillationOutput", "ReplayedRows", "attach_distillation"]


@dataclass(frozen=True)
class DistillationInputs:
    """What the student's forward needs for the loss, beside tokens and labels.

    `teacher` is about the B * (T - 1) predicting positions; None for objectives without one. Where
    the batch ends with rows of a rule of their own, `rule` and `teacher` are of those before them.
    A `BatchRule` is bound to its rows of the forward pass: to one process's, and with gradient
    accumulation to one micro-batch's.
    """

    rule: Rule
    teacher: TeacherStates | ExpectedEmbedding | None = None
    with_logits: bool = False
    replayed: "ReplayedRows | None" = None


@dataclass(frozen=True)
class ReplayedRows:
    """The last `count` rows of a batch, with their rule, and the teacher at their positions."""

    count: int
    rule: Rule
    teacher: TeacherStates | ExpectedEmbedding | None = None


@dataclass
class DistillationOutput(ModelOutput):
    """The op's results (see `ops.Distillation`); the per-token ones are (B * (T - 1),).

    Those of rows with a rule of their own are in `replayed`, and not in the others; logits are of
    the whole batch.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    tokens: Tensor | None = None
    negative_log_likelihood: Tensor | None = None
    forward_kl: Tensor | None = None
    teacher_is_right: Tensor | None = None
    mixing: Tensor | None = None
    replayed: "DistillationOutput | None" = None


def attach_distillation(model: PreTrainedModel) -> None:
    """Give `model.forward` the keyword `distillation`; without it the forward is what it was."""
    model.forward = MethodType(_forward, model)


def _forward(
    self: PreTrainedModel, *args: Any, distillation: DistillationInputs | None = None, **kwargs: Any
) -> Any:
    if distillation is None:
        return type(self).forward(self, *args, **kwargs)
    return distillation_output(self, kwargs, distillation)


def distillation_output(
    model: PreTrainedModel, inputs: dict[str, Any], distillation: DistillationInputs
) -> DistillationOutput:
    """Decoder, shift by one token, op; once for each rule. `inputs` holds (B, T) `input_ids` and
    `labels`.

    Labels follow the convention of transformers: position t predicts labels[t + 1].
    """
    states, labels = hidden_states(model, inputs), inputs["labels"][:, 1:]
    head = output_head(model)
    replayed = distillation.replayed
    new = len(states) - (0 if replayed is None else replayed.count)
    output = _output_of_rows(
        states[:new], head, labels[:new], distillation.rule, distillation.teacher
    )
    if replayed is not None:
        output.replayed = _output_of_rows(
            states[new:], head, labels[new:], replayed.rule, replayed.teacher
        )
    if distillation.with_logits:
        output.logits = head.logits(states)
    return output


def _output_of_rows(
    states: Tensor,
    head: Head,
    labels: Tensor,
    rule: Rule,
    teacher: TeacherStates | ExpectedEmbedding | None,
) -> DistillationOutput:
    """Of rows (B, T, H) and (B, T - 1) that have one rule; there may be none."""
    hidden = predicting(states)
    rule = _rule_of_batch(rule, hidden, head, labels)
    result = _op(hidden, head, labels.flatten(), rule, teacher)
    return DistillationOutput(
        loss=result.loss,
        tokens=result.tokens,
        negative_log_likelihood=result.negative_log_likelihood,
        forward_kl=result.forward_kl,
        teacher_is_right=result.teacher_is_right,
        mixing=result.mixing,
    )


def _rule_of_batch(rule: Rule, hidden: Tensor, head: Head, labels: Tensor) -> Rule:
    """The rule; a `BatchRule` as that of this batch, which costs one more product with the head."""
    if not (isinstance(rule, BatchRule) and len(labels)):
        return rule
    with torch.no_grad():
        losses = _op(hidden, head, labels.flatten(), finetuning).negative_log_likelihood
    return rule.of_batch(losses.view_as(labels), labels != -100)


# The op is one opaque step: tracing its loop over chunks would unroll it.
_op = torch.compiler.disable(linear_distillation)
