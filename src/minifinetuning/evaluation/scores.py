"""Score texts with a model: the perplexity of each, and its divergence from a teacher."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from minifinetuning.data.batches import collate, of_predictions
from minifinetuning.data.sequences import Sequences
from minifinetuning.metrics import SequenceLosses, perplexity
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
    "Scores",
    "TextScores",
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

    def over_processes(self, total: Callable[[Tensor], Tensor]) -> "TextScores":
        """Those of all processes, of which each scored its share and left zeros elsewhere.

        `total` sums a tensor over them. What was scored is known to all; how it was scored, to each
        for its share.
        """
        likelihood = total(self.losses.negative_log_likelihood)
        ends = total(torch.tensor(self.ends.negative_log_likelihood, dtype=torch.float64))
        return replace(
            self,
            losses=replace(self.losses, negative_log_likelihood=likelihood),
            forward_kl=None if self.forward_kl is None else total(self.forward_kl),
            ends=replace(self.ends, negative_log_likelihood=float(ends)),
        )


Scores = Mapping[str, TextScores]
"""Of one model: each text by its name."""


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
            autocast=autocast,
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
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
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
    with evaluating(model), autocast():
        for number, start in enumerate(bar):
            stop = min(start + batch_size, len(sequences))
            examples = [sequences[index] for index in range(start, stop)]
            batch = collate(examples)
            found = _Parts(examples, start, batch["labels"][:, 1:])
            parts.append(found)
            if number % world_size != rank:
                continue
            batch = {name: values.to(device) for name, values in batch.items()}
            asked = None if teacher is None else teacher.outputs(batch)
            inputs = DistillationInputs(rule=finetuning, teacher=asked)
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

    def __init__(self, examples: list[Mapping[str, Any]], first: int, labels: Tensor) -> None:
        """Of a batch whose first example is the `first` of its text; `labels` are (B, T - 1)."""
        documents, ends = of_predictions(examples, first)
        predicted = labels.ne(-100)
        self.text, self.ends = predicted & ~ends, predicted & ends
        rows = torch.arange(len(labels))[:, None].expand_as(labels)
        places = torch.stack([rows[self.text], documents[self.text]])
        unique, self.part = places.unique(dim=1, return_inverse=True)
        self.documents = unique[1]
        self.tokens = torch.bincount(self.part, minlength=len(self.documents))
        self.negative_log_likelihood = torch.zeros(len(self.documents), dtype=torch.float64)
        self.forward_kl = torch.zeros_like(self.negative_log_likelihood)
        self.end_likelihood = 0.0

    def add(self, output: DistillationOutput) -> None:
        """Take what the model made of the batch."""
        assert output.negative_log_likelihood is not None
        likelihood = output.negative_log_likelihood.view(self.text.shape).double().cpu()
        self.negative_log_likelihood.index_add_(0, self.part, likelihood[self.text])
        self.end_likelihood += float(likelihood[self.ends].sum())
        if output.forward_kl is not None:
            divergence = output.forward_kl.view(self.text.shape).double().cpu()
            self.forward_kl.index_add_(0, self.part, divergence[self.text])
