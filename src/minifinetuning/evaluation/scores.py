"""A model and texts to perplexities, and two models' perplexities to a metrics record."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from minifinetuning.data.batches import Sequences, collate, of_predictions
from minifinetuning.metrics import (
    Change,
    Pairs,
    SequenceLosses,
    degeneralization,
    difference,
    mean_changes,
    perplexity,
    ratio,
    specialization,
)
from minifinetuning.models.causal import causal_model, evaluating
from minifinetuning.models.student import (
    DistillationInputs,
    DistillationOutput,
    distillation_output,
)
from minifinetuning.objectives import finetuning
from minifinetuning.teacher.live import Teacher

__all__ = [
    "GENERAL",
    "SPECIALIZED",
    "DocumentEnds",
    "TextScores",
    "comparison",
    "mean_comparison",
    "mean_difference",
    "measurements",
    "scores_by_text",
    "text_scores",
]

SPECIALIZED, GENERAL = "specialized", "general"
"""The names of the two validation texts, in `eval_dataset` and in every metric."""


@dataclass(frozen=True)
class DocumentEnds:
    """What a model made of the token that closes a document: no text, so a figure of its own."""

    negative_log_likelihood: float
    documents: int

    @property
    def perplexity(self) -> float | None:
        """exp(mean negative log-likelihood) in nats; None where no document ends in the text."""
        if not self.documents:
            return None
        return perplexity(self.negative_log_likelihood, self.documents)


@dataclass(frozen=True)
class TextScores:
    """One model on the text positions of one validation text, part by part (see `SequenceLosses`).

    `forward_kl` is the sum over a part's tokens of KL(p_T || p_S) in nats, None without a teacher
    to compare with. `sequences` is how many the text was packed into.
    """

    losses: SequenceLosses
    forward_kl: Tensor | None = None
    ends: DocumentEnds = DocumentEnds(0.0, 0)
    sequences: int | None = None

    @property
    def perplexity(self) -> float:
        return self.losses.perplexity

    @property
    def mean_forward_kl(self) -> float | None:
        """KL(p_T || p_S) in nats per predicted token."""
        if self.forward_kl is None:
            return None
        return float(self.forward_kl.sum() / self.losses.tokens.sum())


def scores_by_text(
    model: PreTrainedModel | PeftModel,
    texts: Mapping[str, Sequences],
    *,
    batch_size: int = 8,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    teachers: Mapping[str, Teacher] | None = None,
    process: tuple[int, int] = (0, 1),
    description: str | None = None,
) -> dict[str, TextScores]:
    """`text_scores` of each text by its name; `teachers` are those that have one to compare with.

    `autocast` is opened for each text, and `description` precedes the text's name at its bar.
    """
    return {
        name: text_scores(
            model,
            text,
            batch_size=batch_size,
            teacher=(teachers or {}).get(name),
            autocast=autocast(),
            process=process,
            description=None if description is None else f"{description}: {name}",
        )
        for name, text in texts.items()
    }


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

    Only text is scored: the tokens that close documents are summed up in `ends`, and those that
    open them have no label. With `teacher` the forward KL to it comes along. `process` = (rank,
    world size) scores every world-size-th batch and leaves zeros elsewhere, so that sums of
    likelihoods over processes are whole. `description` names a progress bar.
    """
    device = causal_model(model).device
    rank, world_size = process
    parts: list[_Parts] = []
    starts = range(0, len(sequences), batch_size)
    bar = tqdm(starts, desc=description, unit="batch", leave=False, disable=description is None)
    with evaluating(model), autocast or nullcontext():
        for number, start in enumerate(bar):
            stop = min(start + batch_size, len(sequences))
            examples = [sequences[index] for index in range(start, stop)]
            batch = collate(examples)
            found = _Parts.of(examples, start, batch["labels"][:, 1:])
            parts.append(found)
            if number % world_size != rank:
                continue
            batch = {name: values.to(device) for name, values in batch.items()}
            inputs = DistillationInputs(
                rule=finetuning,
                teacher=None if teacher is None else teacher.outputs(batch),
            )
            found.add(distillation_output(causal_model(model), batch, inputs))

    def whole(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    losses = SequenceLosses(whole("negative_log_likelihood"), whole("tokens"), whole("documents"))
    ends = DocumentEnds(
        sum(part.end_likelihood for part in parts), sum(int(part.ends.sum()) for part in parts)
    )
    forward_kl = None if teacher is None else whole("forward_kl")
    return TextScores(losses, forward_kl, ends, len(sequences))


class _Parts:
    """The parts of a batch: its text positions by sequence and document, and the sums over them.

    `part` (k,) says to which of the n parts each of the k text positions belongs, `text` and `ends`
    (B, T - 1) which predictions are text and which close a document.
    """

    def __init__(self, text: Tensor, ends: Tensor, documents: Tensor) -> None:
        self.text, self.ends = text, ends
        rows = torch.arange(len(text))[:, None].expand_as(text)
        places = torch.stack([rows[text], documents[text]])
        unique, self.part = places.unique(dim=1, return_inverse=True)
        self.documents = unique[1]
        self.tokens = torch.bincount(self.part, minlength=len(self.documents))
        self.negative_log_likelihood = torch.zeros(len(self.documents), dtype=torch.float64)
        self.forward_kl = torch.zeros_like(self.negative_log_likelihood)
        self.end_likelihood = 0.0

    @classmethod
    def of(cls, examples: list[Mapping[str, Any]], first: int, labels: Tensor) -> "_Parts":
        """Of a batch whose first example is the `first` of its text; `labels` are (B, T - 1)."""
        documents, ends = of_predictions(examples, first, labels.shape[1] + 1)
        predicted = labels.ne(-100)
        return cls(predicted & ~ends, predicted & ends, documents)

    def add(self, output: DistillationOutput) -> None:
        """Take what the model made of the batch."""
        assert output.negative_log_likelihood is not None
        likelihood = output.negative_log_likelihood.view(self.text.shape).double().cpu()
        self.negative_log_likelihood.index_add_(0, self.part, likelihood[self.text])
        self.end_likelihood += float(likelihood[self.ends].sum())
        if output.forward_kl is not None:
            divergence = output.forward_kl.view(self.text.shape).double().cpu()
            self.forward_kl.index_add_(0, self.part, divergence[self.text])


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
        if gained > 0:
            values["ratio"] = ratio(lost, gained)
    return values


def comparison(
    reference: Mapping[str, TextScores], tuned: Mapping[str, TextScores]
) -> dict[str, Any]:
    """What tuning gained and lost: the head of `metrics.json`.

    Keys: `reference` and `tuned` (each `specialized_perplexity`, `general_perplexity`),
    `specialization` and `degeneralization` in %, `ratio`, `intervals` (95 %, paired bootstrap over
    documents), `validation` (of how many documents, sequences and tokens the figures are, by text),
    `end_of_document` (perplexity of the token that closes one, by text) and `forward_kl` in nats
    per token. What needs general text is None without it, and so is a bound that is infinite.
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
        "validation": {
            name: _extent(reference[name]) if name in reference else None
            for name in (SPECIALIZED, GENERAL)
        },
        "end_of_document": {
            name: _end_of_document(reference[name], [run[name] for run in runs])
            for name in (SPECIALIZED, GENERAL)
            if name in reference
        },
        "forward_kl": sum(known) / len(known) if known else None,
    }


def _extent(scores: TextScores) -> dict[str, int | None]:
    """Of how much the figures of a text are."""
    return {
        "documents": scores.losses.document_count,
        "sequences": scores.sequences,
        "tokens": int(scores.losses.tokens.sum()),
    }


def _end_of_document(reference: TextScores, runs: Sequence[TextScores]) -> dict[str, Any] | None:
    """Before and after, on the documents that end in the text; None where none does."""
    before, after = reference.ends.perplexity, [run.ends.perplexity for run in runs]
    if before is None:
        return None
    return {
        "documents": reference.ends.documents,
        "reference_perplexity": _finite(before),
        "tuned_perplexity": _finite(sum(value or 0.0 for value in after) / len(after)),
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
