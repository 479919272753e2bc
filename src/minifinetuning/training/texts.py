"""Read the texts of a run with the model's tokenizer, or let the model write them."""

import logging
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from minifinetuning.data import (
    NOTHING,
    Corpus,
    CorpusSummary,
    HeldOut,
    corpus_from_sources,
)
from minifinetuning.data.config import DEFAULT_SEQUENCE_LENGTH, DataConfig
from minifinetuning.data.mixing import replayed_per_new
from minifinetuning.data.sequences import Sequences, predicts_text, require_embeddings
from minifinetuning.data.sources import Sources, has_columns
from minifinetuning.data.tokenizers import closing_token_id
from minifinetuning.errors import InputError
from minifinetuning.evaluation.scores import GENERAL, SPECIALIZED
from minifinetuning.files import cache_folder
from minifinetuning.models.config import ModelConfig
from minifinetuning.models.loading import load_model, load_tokenizer, model_limit, vocabulary_size
from minifinetuning.teacher.writing import SelfWritten, self_written
from minifinetuning.training.ewc import FISHER_TOKENS
from minifinetuning.training.passages import note_trained_runs

__all__ = ["SELF", "TextNeeds", "Texts", "read_texts", "to_standard_error"]

logger = logging.getLogger(__name__)

SELF = "self"
"""In place of paths: text that the model writes itself."""

REPLAY, FISHER = "replay", "fisher"


@dataclass(frozen=True)
class Texts:
    """The sequences of a run. `summaries` describe each text that was read, by its role."""

    tokenizer: PreTrainedTokenizerBase
    sequence_length: int
    validation: dict[str, Sequences]
    train: Sequences | None = None
    replay: Sequences | None = None
    fisher: Sequences | None = None
    summaries: dict[str, CorpusSummary] = field(default_factory=dict)

    def trained(self) -> dict[str, Sequences]:
        """What a run trains on, each text under the name of its field."""
        trained = {"train": self.train, REPLAY: self.replay, FISHER: self.fisher}
        return {name: text for name, text in trained.items() if text is not None}

    def summary(self) -> dict[str, Any]:
        """For metrics.json."""
        described = {name: asdict(summary) for name, summary in self.summaries.items()}
        for summary in described.values():
            # Words of the text itself are for the screen alone: metrics.json may be published.
            del summary["repeated_line"]
        return {SPECIALIZED: None, GENERAL: None} | described


@dataclass(frozen=True)
class TextNeeds:
    """What a run does with its texts beside measuring on them.

    `seed` is that of the split, `with_train` says whether the specialized text is trained on,
    `new_data_fraction` or `replay_share` how much is replayed beside it (see `replayed_per_new`).
    Where nothing is replayed, `fisher` names the text of a Fisher information, which leaves out
    what the others are measured on.
    """

    seed: int
    with_train: bool = True
    new_data_fraction: float = 0.5
    replay_share: float | None = None
    fisher: list[str] | None = None


def to_standard_error(summary: str) -> None:
    """Print below what is on its way to a file or another program."""
    print(summary, file=sys.stderr)


def _nothing(caution: str) -> None:
    """Of a validation side that nothing is measured on."""


def read_texts(
    model: ModelConfig,
    data: DataConfig,
    needs: TextNeeds,
    *,
    progress: bool = True,
    say: Callable[[str], None] = to_standard_error,
    warn: Callable[[str], None] = logger.warning,
) -> Texts:
    """Read, split and pack the texts with the model's tokenizer, and `say` what they came to.

    Of `data.general` the validation side is what DG is measured on. `data.replay` holds as many
    tokens as `needs` ask for where either text is gone through equally often. No text
    is trained on documents that another one is measured on, in part or whole, nor on near-copies of
    them; by content, so that it does not matter how their sources are named. `warn` is told what
    makes figures say little. Raises InputError for input that cannot be used.
    """
    if data.text_field is not None:
        _require_tables(data.text_field, [data.data, data.general, data.replay, needs.fisher])
    reader = _Reader(model, data, needs, progress, say, warn)
    general = None
    if data.general and data.general != [SELF]:
        general = reader.corpus(GENERAL, data.general)
    measured = NOTHING if general is None else general.held_out
    own = reader.corpus(SPECIALIZED, data.data, measured)
    validation: dict[str, Sequences] = {SPECIALIZED: own.validation}
    if general is not None:
        _require_other_text(own, general, warn)
        validation[GENERAL] = general.validation
    elif data.general == [SELF]:
        validation[GENERAL] = reader.written(GENERAL, len(own.validation))
    measured = measured | own.held_out
    replay = fisher = None
    if data.replay is not None and own.train is not None:
        share = replayed_per_new(needs.new_data_fraction, needs.replay_share)
        count = max(1, round(share * len(own.train)))
        replay = reader.training_side(REPLAY, data.replay, measured, share=share, sequences=count)
    elif needs.fisher is not None:
        count = math.ceil(FISHER_TOKENS / reader.sequence_length)
        fisher = reader.training_side(FISHER, needs.fisher, measured, sequences=count)
    texts = Texts(
        reader.tokenizer,
        reader.sequence_length,
        validation,
        own.train,
        replay,
        fisher,
        reader.summaries,
    )
    if shares := note_trained_runs(texts.summaries, texts.validation, texts.trained(), warn):
        say(shares)
    return texts


class _Reader:
    """Reads each text of one run in the same way; `summaries` describe those read so far."""

    def __init__(
        self,
        model: ModelConfig,
        data: DataConfig,
        needs: TextNeeds,
        progress: bool,
        say: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        self.model, self.data, self.needs = model, data, needs
        self.progress, self.say, self.warn = progress, say, warn
        self.summaries: dict[str, CorpusSummary] = {}
        self.tokenizer = load_tokenizer(model)
        self.vocabulary = vocabulary_size(model)
        # Before the texts are read, which may take long.
        end = closing_token_id(self.tokenizer)
        require_embeddings([{"input_ids": [end]}], self.vocabulary, "the end of each document")
        self.sequence_length = _sequence_length(model, data)

    def corpus(
        self, role: str, sources: list[str], held_out: HeldOut = NOTHING, *, share: float = 1.0
    ) -> Corpus:
        """The sources, for a role; `share` scales the budget for training, in tokens."""
        is_measured = role in (SPECIALIZED, GENERAL)
        is_trained = role != GENERAL and (role != SPECIALIZED or self.needs.with_train)
        tokens = max(1, round(share * self.data.train_budget))
        text = replace(self.data, sequence_length=self.sequence_length, train_tokens=str(tokens))
        corpus = corpus_from_sources(
            sources,
            self.tokenizer,
            text,
            seed=self.needs.seed,
            with_train=is_trained,
            progress=self.progress,
            cache=cache_folder() / "texts",
            held_out=held_out,
            warn=self.warn if is_measured else _nothing,
        )
        _require_predictions(corpus, is_measured=is_measured, is_trained=is_trained)
        for side in (corpus.train, corpus.validation):
            require_embeddings(side, self.vocabulary, f"the text of {', '.join(sources)}")
        self.say(str(corpus.summary))
        self.summaries[role] = corpus.summary
        return corpus

    def training_side(
        self,
        role: str,
        sources: list[str],
        held_out: HeldOut,
        *,
        sequences: int,
        share: float = 1.0,
    ) -> Sequences:
        """What is trained on beside the specialized text; so many sequences, if it is written."""
        if sources == [SELF]:
            return self.written(role, sequences)
        train = self.corpus(role, sources, held_out, share=share).train
        assert train is not None
        return train

    def written(self, role: str, sequences: int) -> SelfWritten:
        """What the model writes for a role: another text for each of them."""
        model: Any = load_model(self.model)
        if torch.cuda.is_available():
            model.cuda()
        written = self_written(
            model,
            self.tokenizer,
            sequences=sequences,
            sequence_length=self.sequence_length,
            seed=3 * self.needs.seed + (GENERAL, REPLAY, FISHER).index(role),
            cache=cache_folder() / "self-written",
            progress=self.progress,
        )
        self.summaries[role] = _summary_of_written(written, is_validation=role == GENERAL)
        self.say(
            f"{role}: {sequences:,} sequences of {self.sequence_length:,} tokens that the model "
            "wrote itself"
        )
        return written


def _require_other_text(own: Corpus, other: Corpus, warn: Callable[[str], None]) -> None:
    """Raises InputError where all that DG would be measured on is specialized text as well."""
    specialized, general = (", ".join(corpus.summary.sources) for corpus in (own, other))
    if own.summary.held_out_copies == len(other.held_out):
        raise InputError(
            f"--general {general}: every document that forgetting would be measured on is in "
            f"--data {specialized} too: give other general text"
        )
    if own.summary.held_out_met == len(other.held_out):
        warn(
            f"--general {general}: every document that forgetting is measured on has a near-copy "
            f"in --data {specialized}, so DG says how that is learnt: give other general text"
        )


def _require_tables(text_field: str, texts: list[list[str] | None]) -> None:
    """Raises InputError where nothing that is read has columns, of which one could be chosen."""
    sources = [source for text in texts if text and text != [SELF] for source in text]
    if not any(has_columns(file) for file in Sources(sources).files):
        raise InputError(
            f"--text_field {text_field} does nothing here: none of the texts is a table, leave it "
            "out"
        )


def _require_predictions(corpus: Corpus, *, is_measured: bool, is_trained: bool) -> None:
    """Raises InputError where a side that is needed has no token of text to predict."""
    needed = {
        "train": corpus.train if is_trained else None,
        "validation": corpus.validation if is_measured else None,
    }
    for side, text in needed.items():
        if text is not None and not predicts_text(text):
            named = ", ".join(corpus.summary.sources)
            raise InputError(
                f"the {side} side of {named} has no token of text to predict: raise "
                f"--{side}_tokens, or give more text"
            )


def _summary_of_written(written: SelfWritten, *, is_validation: bool) -> CorpusSummary:
    """A sequence counts as a document: it was written in one go."""
    sequences, tokens = len(written), written.tokens.numel()
    train = (0, 0, 0) if is_validation else (sequences, tokens, sequences)
    validation = (sequences, tokens, sequences) if is_validation else (0, 0, 0)
    length = written.tokens.shape[1]
    return CorpusSummary(
        [SELF], sequences, 0, 0, 0, sequences, tokens, *train, *validation, sequence_length=length
    )


def _sequence_length(model: ModelConfig, data: DataConfig) -> int:
    limit = model_limit(model)
    length = data.sequence_length or min(DEFAULT_SEQUENCE_LENGTH, limit or DEFAULT_SEQUENCE_LENGTH)
    if limit is not None and length > limit:
        raise InputError(
            f"--sequence_length {length} is above the model's limit of {limit} tokens: lower it"
        )
    return length
