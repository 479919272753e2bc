"""The loss of an optimizer step: a rule for new text, one for replayed text, and their means."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from minifinetuning.data.batches import rows_of
from minifinetuning.data.sequences import REPLAYED_ROWS
from minifinetuning.models.student import DistillationInputs, DistillationOutput, ReplayedRows
from minifinetuning.objectives import needs_teacher, rule
from minifinetuning.teacher.live import Teacher
from minifinetuning.training.config import MFTConfig

__all__ = ["StepLoss"]

_WITH_TEACHER = ("forward_kl", "teacher_is_right", "mixing")


class StepLoss:
    """What one forward pass adds to the loss of its step, and the means that are logged.

    Where replayed text is added to whole steps,

        loss = mean over new tokens of w * CE(q, p_S)
             + replay_weight * mean over replayed tokens of KL(p_T || p_S)

    each mean over the whole step: all processes, all accumulated passes. With an objective other
    than distillation for the replayed text, its own w * CE(q, p_S) is in the KL's place. Where
    replayed text is a part of the step, the loss is one mean over the tokens of both.
    """

    def __init__(self, args: MFTConfig, *, replays: bool) -> None:
        self.adds_replay = replays and args.adds_replay
        self.weight = args.replay_weight or 0.0
        replayed = args.replay_objective or args.objective
        self.is_distilled = replayed == "distillation"
        # Of one rule and one mean, both texts go through the op together.
        self.is_apart = replays and (args.adds_replay or replayed != args.objective)
        self.rule, self.replay_rule = (
            rule(objective, args.fixed_tau, args.kl_weight)
            for objective in (args.objective, replayed)
        )
        self._asks = needs_teacher(args.objective)
        self._asks_on_replayed = needs_teacher(replayed) if self.is_apart else self._asks
        self.means, self.replay_means = TokenMeans(), TokenMeans()

    def inputs(
        self, batch: Mapping[str, Any], teacher: Teacher | None, *, with_logits: bool
    ) -> DistillationInputs:
        """For the student's forward; the teacher is asked about the rows whose rule needs it."""
        rows, length = batch["input_ids"].shape
        replayed = batch.get(REPLAYED_ROWS, 0) if self.is_apart else 0
        new = rows - replayed
        asked = slice(0 if self._asks else new, rows if self._asks_on_replayed else new)
        of_new = of_replayed = None
        if asked.start < asked.stop:
            assert teacher is not None
            answers = teacher.outputs(rows_of(batch, asked))
            cut = (new - asked.start) * (length - 1)
            of_new = answers[:cut] if self._asks else None
            of_replayed = answers[cut:] if self._asks_on_replayed else None
        apart = ReplayedRows(replayed, self.replay_rule, of_replayed) if replayed else None
        return DistillationInputs(self.rule, of_new, with_logits, apart)

    @property
    def asks_teacher(self) -> bool:
        """Whether any of the rules needs the teacher."""
        return self._asks or self._asks_on_replayed

    def counts(self, batches: Sequence[Mapping[str, Any]]) -> Tensor:
        """(2,): how many new and how many replayed tokens the passes of one process predict."""
        counts = []
        for batch in batches:
            kept = batch["labels"][:, 1:].ne(-100).sum(1)
            new = len(kept) - batch.get(REPLAYED_ROWS, 0)
            counts.append(torch.stack([kept[:new].sum(), kept[new:].sum()]))
        return torch.stack(counts).sum(0)

    def of(self, outputs: Any, counts: Tensor | int | None) -> Tensor:
        """The pass's part of the step's loss, from a `DistillationOutput`.

        `counts` are the predicted tokens of the whole step: of both texts together, or where
        replayed text is added those of either, (2,). Without them the pass is the step.
        """
        self.means.add(outputs)
        if outputs.replayed is not None:
            self.replay_means.add(outputs.replayed)
        return self._two_means(outputs, counts) if self.adds_replay else _one_mean(outputs, counts)

    def _two_means(self, outputs: Any, counts: Any) -> Tensor:
        replayed = outputs.replayed
        if counts is None:
            none = torch.zeros_like(outputs.tokens)
            counts = torch.stack([outputs.tokens, none if replayed is None else replayed.tokens])
        new, old = counts.clamp(min=1)
        loss: Tensor = outputs.loss / new
        if replayed is not None:
            summed = replayed.loss
            if self.is_distilled:
                # The entropy of p_T, which CE has on top of the KL, has no gradient.
                summed = replayed.forward_kl.sum() + (summed - summed.detach())
            loss = loss + self.weight * summed / old
        return loss

    def drained(self, over_processes: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Means per token since the last call, over all processes.

        KL to the teacher in nats, the share where it is right, and m; where the texts are apart,
        these are of new text, and beside them are `specialized_loss` and `replay_kl`, and
        `replay_loss` where that is another.
        """
        means = self.means.drained(over_processes)
        loss = means.pop("loss", None)
        if not self.is_apart:
            return means
        if loss is not None:
            means["specialized_loss"] = loss
        replayed = self.replay_means.drained(over_processes)
        if "forward_kl" in replayed:
            means["replay_kl"] = replayed["forward_kl"]
        if "loss" in replayed and not self.is_distilled:
            means["replay_loss"] = replayed["loss"]
        return means


def _one_mean(outputs: Any, counts: Tensor | int | None) -> Tensor:
    """Over the tokens of both texts."""
    tokens, loss = outputs.tokens, outputs.loss
    if outputs.replayed is not None:
        tokens, loss = tokens + outputs.replayed.tokens, loss + outputs.replayed.loss
    mean: Tensor = loss / torch.as_tensor(tokens if counts is None else counts).clamp(min=1)
    return mean


class TokenMeans:
    """Sums over tokens of what the op says about them, kept on the device until they are logged."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def add(self, outputs: DistillationOutput) -> None:
        """Take the values of some rows; what needs a teacher counts where there was one."""
        assert outputs.loss is not None
        assert outputs.tokens is not None
        values = [outputs.tokens, outputs.loss]
        if outputs.forward_kl is not None:
            values += [outputs.tokens, *(getattr(outputs, name).sum() for name in _WITH_TEACHER)]
        sums = torch.stack([value.detach().float() for value in values])
        sums = torch.nn.functional.pad(sums, (0, 3 + len(_WITH_TEACHER) - len(sums)))
        self._sums = sums if self._sums is None else self._sums + sums

    def drained(self, over_processes: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Means per token since the last call; of none there are none."""
        own = torch.zeros(3 + len(_WITH_TEACHER)) if self._sums is None else self._sums
        self._sums = None
        tokens, loss, answered, *sums = over_processes(own).tolist()
        means = {"loss": loss / tokens} if tokens else {}
        if answered:
            means |= {
                name: total / answered for name, total in zip(_WITH_TEACHER, sums, strict=True)
            }
        return means
