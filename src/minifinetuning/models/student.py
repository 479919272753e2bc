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

__all__ = ["DistillationInputs", "DistillationOutput", "TokenMeans", "attach_distillation"]


@dataclass(frozen=True)
class DistillationInputs:
    """What the student's forward needs for the loss, beside tokens and labels.

    `teacher` is about the B * (T - 1) predicting positions; None for objectives without one.
    A `BatchRule` is bound to the batch of the forward pass: to one process's, and with gradient
    accumulation to one micro-batch.
    """

    rule: Rule
    teacher: TeacherStates | ExpectedEmbedding | None = None
    with_logits: bool = False


@dataclass
class DistillationOutput(ModelOutput):
    """The op's results (see `ops.Distillation`); the per-token ones are (B * (T - 1),)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    tokens: Tensor | None = None
    negative_log_likelihood: Tensor | None = None
    forward_kl: Tensor | None = None
    teacher_is_right: Tensor | None = None
    mixing: Tensor | None = None


class TokenMeans:
    """Sums over tokens of what the op says about them, kept on the device until they are logged."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, outputs: DistillationOutput) -> None:
        """Take the values of a batch; without a teacher there are none."""
        if outputs.forward_kl is None:
            return
        for name in ("tokens", "forward_kl", "teacher_is_right", "mixing"):
            total = getattr(outputs, name).detach().sum().float()
            self.sums[name] = self.sums.get(name, 0.0) + total

    def drained(self) -> dict[str, float]:
        """Means per token since the last call: KL in nats, share where the teacher is right, m."""
        sums, self.sums = self.sums, {}
        tokens = float(sums.pop("tokens", torch.zeros(())))
        return {name: float(total) / tokens for name, total in sums.items()} if tokens else {}


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
    """Decoder, shift by one token, op. `inputs` holds (B, T) `input_ids` and `labels`.

    Labels follow the convention of transformers: position t predicts labels[t + 1].
    """
    states = hidden_states(model, inputs)
    head = output_head(model)
    hidden, labels = predicting(states), inputs["labels"][:, 1:]
    rule = _rule_of_batch(distillation.rule, hidden, head, labels)
    result = _op(hidden, head, labels.flatten(), rule, distillation.teacher)
    return DistillationOutput(
        loss=result.loss,
        logits=head.logits(states) if distillation.with_logits else None,
        tokens=result.tokens,
        negative_log_likelihood=result.negative_log_likelihood,
        forward_kl=result.forward_kl,
        teacher_is_right=result.teacher_is_right,
        mixing=result.mixing,
    )


def _rule_of_batch(rule: Rule, hidden: Tensor, head: Head, labels: Tensor) -> Rule:
    """The rule; a `BatchRule` as that of this batch, which costs one more product with the head."""
    if not isinstance(rule, BatchRule):
        return rule
    with torch.no_grad():
        losses = _op(hidden, head, labels.flatten(), finetuning).negative_log_likelihood
    return rule.of_batch(losses.view_as(labels), labels != -100)


# The op is one opaque step: tracing its loop over chunks would unroll it.
_op = torch.compiler.disable(linear_distillation)
