"""A model and texts to perplexities, and two models' perplexities to a metrics record."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from minifinetuning.data.batches import Sequences, collate
from minifinetuning.metrics import (
    Change,
    Pairs,
    SequenceLosses,
    degeneralization,
    difference,
    mean_changes,
    ratio,
    specialization,
)
from minifinetuning.models.causal import causal_model, evaluating
from minifinetuning.models.student import DistillationInputs, distillation_output
from minifinetuning.objectives import finetuning
from minifinetuning.teachers import Teacher

__all__ = [
    "GENERAL",
    "SPECIALIZED",
    "TextScores",
    "comparison",
    "mean_comparison",
    "mean_difference",
    "measurements",
    "text_scores",
]

SPECIALIZED, GENERAL = "specialized", "general"
"""The names of the two validation texts, in `eval_dataset` and in every metric."""


@dataclass(frozen=True)
class TextScores:
    """One model on one validation text, per sequence (n,).

    `forward_kl` is the sum over the sequence's tokens of KL(p_T || p_S) in nats, None without a
    teacher to compare with.
    """

    losses: SequenceLosses
    forward_kl: Tensor | None = None

    @property
    def perplexity(self) -> float:
        return self.losses.perplexity

    @property
    def mean_forward_kl(self) -> float | None:
        """KL(p_T || p_S) in nats per predicted token."""
        if self.forward_kl is None:
            return None
        return float(self.forward_kl.sum() / self.losses.tokens.sum())


def text_scores(
    model: PreTrainedModel | PeftModel,
    sequences: Sequences,
    *,
    batch_size: int = 8,
    teacher: Teacher | None = None,
    autocast: AbstractContextManager[Any] | None = None,
    process: tuple[int, int] = (0, 1),
    description: str | None = None,
) -> TextScores:
    """Score every sequence, through the same op as training, so no (B, T, V) logits are held.

    With `teacher` the forward KL to it comes along. `process` = (rank, world size) scores every
    world-size-th batch and leaves zeros elsewhere, so that a sum over processes is whole.
    `description` names a progress bar.
    """
    count = len(sequences)
    device = causal_model(model).device
    likelihood = torch.zeros(count, dtype=torch.float64)
    tokens = torch.zeros(count, dtype=torch.int64)
    forward_kl = torch.zeros(count, dtype=torch.float64)
    rank, world_size = process
    starts = range(rank * batch_size, count, world_size * batch_size)
    bar = tqdm(starts, desc=description, unit="batch", leave=False, disable=description is None)
    with evaluating(model), autocast or nullcontext():
        for start in bar:
            rows = slice(start, min(start + batch_size, count))
            examples = [sequences[index] for index in range(rows.start, rows.stop)]
            batch = {name: values.to(device) for name, values in collate(examples).items()}
            inputs = DistillationInputs(
                rule=finetuning,
                teacher=None if teacher is None else teacher.outputs(batch),
            )
            output = distillation_output(causal_model(model), batch, inputs)
            by_sequence = (len(examples), -1)
            assert output.negative_log_likelihood is not None
            likelihood[rows] = _row_sums(output.negative_log_likelihood, by_sequence)
            tokens[rows] = batch["labels"][:, 1:].ne(-100).sum(1).cpu()
            if output.forward_kl is not None:
                forward_kl[rows] = _row_sums(output.forward_kl, by_sequence)
    losses = SequenceLosses(likelihood, tokens)
    return TextScores(losses, None if teacher is None else forward_kl)


def measurements(
    scores: Mapping[str, TextScores], reference: Mapping[str, TextScores] | None
) -> dict[str, float]:
    """What an evaluation logs: each text's perplexity, the loss, and S, DG and DG/S in %.

    `loss` is the mean over the specialized text in nats. The changes need a `reference`, DG needs
    general text, and `forward_kl` needs a teacher to have been asked.
    """
    values = {f"{name}_perplexity": score.perplexity for name, score in scores.items()}
    first = scores.get(SPECIALIZED) or next(iter(scores.values()))
    values["loss"] = math.log(first.perplexity)
    if first.mean_forward_kl is not None:
        values["forward_kl"] = first.mean_forward_kl
    if reference is None or SPECIALIZED not in scores:
        return values
    gained = specialization(reference[SPECIALIZED].perplexity, first.perplexity)
    values["specialization"] = gained
    if GENERAL in scores:
        lost = degeneralization(reference[GENERAL].perplexity, scores[GENERAL].perplexity)
        values["degeneralization"] = lost
        if gained:
            values["ratio"] = ratio(lost, gained)
    return values


def _row_sums(values: Tensor, shape: tuple[int, int]) -> Tensor:
    return values.view(shape).double().sum(1).cpu()


def comparison(
    reference: Mapping[str, TextScores], tuned: Mapping[str, TextScores]
) -> dict[str, Any]:
    """What tuning gained and lost: the head of `metrics.json`.

    Keys: `reference` and `tuned` (each `specialized_perplexity`, `general_perplexity`),
    `specialization` and `degeneralization` in %, `ratio`, `intervals` (95 %, paired bootstrap over
    sequences) and `forward_kl` in nats per token. What needs general text is None without it, and
    so is a bound that is infinite.
    """
    return mean_comparison(reference, [tuned])


def mean_comparison(
    reference: Mapping[str, TextScores], runs: Sequence[Mapping[str, TextScores]]
) -> dict[str, Any]:
    """`comparison` of several runs of one method: its figures are the means over the runs."""
    change = mean_changes(*_pairs(reference, runs))
    divergences = [tuned[SPECIALIZED].mean_forward_kl for tuned in runs]
    known = [value for value in divergences if value is not None]
    return {
        "reference": _perplexities([reference]),
        "tuned": _perplexities(runs),
        **_record(change),
        "forward_kl": sum(known) / len(known) if known else None,
    }


def mean_difference(
    reference: Mapping[str, TextScores],
    theirs: Sequence[Mapping[str, TextScores]],
    ours: Sequence[Mapping[str, TextScores]],
) -> dict[str, Any]:
    """What the runs of one method gained and lost more than those of another: see `difference`.

    Keys: `specialization` and `degeneralization` in percent points, `ratio`, and their `intervals`.
    The n-th runs of both are of one seed.
    """
    return _record(difference(_pairs(reference, theirs), _pairs(reference, ours)))


def _pairs(
    reference: Mapping[str, TextScores], runs: Sequence[Mapping[str, TextScores]]
) -> tuple[Pairs, Pairs | None]:
    """The losses before and after each run, on the specialized and on the general text."""
    pairs = {
        name: [(reference[name].losses, tuned[name].losses) for tuned in runs] for name in reference
    }
    return pairs[SPECIALIZED], pairs.get(GENERAL)


def _record(change: Change) -> dict[str, Any]:
    return {
        "specialization": change.specialization,
        "degeneralization": change.degeneralization,
        "ratio": _finite(change.ratio),
        "intervals": {
            "level": 0.95,
            "specialization": _bounds(change.specialization_interval),
            "degeneralization": _bounds(change.degeneralization_interval),
            "ratio": _bounds(change.ratio_interval),
        },
    }


def _perplexities(runs: Sequence[Mapping[str, TextScores]]) -> dict[str, float | None]:
    return {
        f"{name}_perplexity": sum(scores[name].perplexity for scores in runs) / len(runs)
        if name in runs[0]
        else None
        for name in (SPECIALIZED, GENERAL)
    }


def _bounds(interval: tuple[float, float] | None) -> list[float | None] | None:
    return None if interval is None else [_finite(bound) for bound in interval]


def _finite(value: float | None) -> float | None:
    """JSON has no infinity and no NaN."""
    return value if value is not None and math.isfinite(value) else None
