"""What a run reads: its texts with the model's tokenizer, or what the model writes itself."""

import logging
import sys
from collections.abc import Callable, Sequence
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
from minifinetuning.data.batches import Sequences
from minifinetuning.data.config import DEFAULT_SEQUENCE_LENGTH, TextConfig
from minifinetuning.data.given import predicts_text
from minifinetuning.data.places import Sources, has_columns
from minifinetuning.data.tokens import closing_token_id
from minifinetuning.errors import InputError
from minifinetuning.evaluation.scores import GENERAL, SPECIALIZED
from minifinetuning.files import cache_folder
from minifinetuning.models.config import ModelConfig
from minifinetuning.models.loading import load_model, load_tokenizer, model_limit, vocabulary_size
from minifinetuning.models.vocabulary import require_embeddings
from minifinetuning.teacher.writing import SelfWritten, self_written
from minifinetuning.training.ewc import FISHER_TOKENS
from minifinetuning.training.passages import note_trained_runs

__all__ = ["SELF", "Texts", "read_texts", "to_standard_error"]

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


def to_standard_error(summary: str) -> None:
    """Print below what is on its way to a file or another program."""
    print(summary, file=sys.stderr)


def _nothing(caution: str) -> None:
    """Of a validation side that nothing is measured on."""


def read_texts(
    model: ModelConfig,
    text: TextConfig,
    specialized: list[str],
    general: list[str] | None,
    *,
    seed: int,
    replay: list[str] | None = None,
    new_data_fraction: float = 0.5,
    with_fisher: bool = False,
    fisher_sources: list[str] | None = None,
    with_train: bool = True,
    progress: bool = True,
    say: Callable[[str], None] = to_standard_error,
    warn: Callable[[str], None] = logger.warning,
) -> Texts:
    """Read, split and pack the texts with the model's tokenizer, and `say` what they came to.

    Of `general` the validation side is what DG is measured on. Its other documents serve as the
    text of a Fisher information (`with_fisher`) where nothing is replayed and `fisher_sources`
    name no other. `replay` holds as many tokens as `new_data_fraction` asks for where either text
    is gone through equally often. No text is trained on documents that another one is measured on,
    in part or whole, nor on near-copies of them; by content, so that it does not matter how their
    sources are named. `warn` is told what makes figures say little. Raises InputError for input
    that cannot be used.
    """
    if text.text_field is not None:
        _require_tables(text.text_field, [specialized, general, replay, fisher_sources])
    place = model.tokenizer or model.model
    tokenizer = load_tokenizer(
        place,
        trust_remote_code=model.trust_remote_code,
        option="--model" if model.tokenizer is None else "--tokenizer",
    )
    vocabulary = vocabulary_size(model.model, trust_remote_code=model.trust_remote_code)
    # Before the texts are read, which may take long.
    end = closing_token_id(tokenizer)
    require_embeddings([{"input_ids": [end]}], vocabulary, "the end of each document")
    length = _sequence_length(model, text)
    reader = _Reader(model, text, tokenizer, length, seed, progress, say, warn, vocabulary)
    other = None
    if general and general != [SELF]:
        other = reader.corpus(general, with_train=False)
    measured = NOTHING if other is None else other.held_out
    own = reader.corpus(specialized, with_train=with_train, held_out=measured)
    if other is not None:
        _require_other_text(own, other, warn)
    found = Texts(tokenizer, reader.sequence_length, {SPECIALIZED: own.validation}, own.train)
    found.summaries[SPECIALIZED] = own.summary
    if other is not None:
        found.validation[GENERAL] = other.validation
        found.summaries[GENERAL] = other.summary
    elif general == [SELF]:
        found.validation[GENERAL] = reader.written(GENERAL, len(own.validation), found)
    if replay is not None:
        share = (1 - new_data_fraction) / new_data_fraction
        again: Sequences
        if replay == [SELF]:
            assert own.train is not None
            again = reader.written(REPLAY, max(1, round(share * len(own.train))), found)
        else:
            again = reader.beside(REPLAY, replay, measured | own.held_out, found, share)
        found = replace(found, replay=again)
    elif with_fisher:
        sources = fisher_sources or general
        fisher: Sequences | None = None
        if sources == [SELF]:
            fisher = reader.written(FISHER, -(-FISHER_TOKENS // reader.sequence_length), found)
        elif sources is not None:
            fisher = reader.beside(FISHER, sources, measured | own.held_out, found)
        found = replace(found, fisher=fisher)
    shares = note_trained_runs(found.summaries, found.validation, found.trained(), warn)
    if shares:
        say(shares)
    return found


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


@dataclass(frozen=True)
class _Reader:
    """Reads each text of one run in the same way."""

    model: ModelConfig
    text: TextConfig
    tokenizer: PreTrainedTokenizerBase
    sequence_length: int
    seed: int
    progress: bool
    say: Callable[[str], None]
    warn: Callable[[str], None]
    vocabulary_size: int | None

    def corpus(
        self,
        sources: Sequence[str],
        *,
        with_train: bool = True,
        share: float = 1.0,
        held_out: HeldOut = NOTHING,
        is_measured: bool = True,
    ) -> Corpus:
        """The sources; `share` scales the budget for training, in tokens."""
        train_tokens = max(1, round(share * self.text.train_budget))
        corpus = corpus_from_sources(
            sources,
            self.tokenizer,
            replace(
                self.text, sequence_length=self.sequence_length, train_tokens=str(train_tokens)
            ),
            seed=self.seed,
            with_train=with_train,
            progress=self.progress,
            cache=cache_folder() / "texts",
            held_out=held_out,
            warn=self.warn if is_measured else _nothing,
        )
        _require_predictions(corpus, is_measured=is_measured, is_trained=with_train)
        for side in (corpus.train, corpus.validation):
            require_embeddings(side, self.vocabulary_size, f"the text of {', '.join(sources)}")
        self.say(str(corpus.summary))
        return corpus

    def beside(
        self,
        role: str,
        sources: list[str],
        held_out: HeldOut,
        texts: Texts,
        share: float = 1.0,
    ) -> Sequences:
        """The training side for a role: nothing of documents that anything is measured on."""
        corpus = self.corpus(sources, share=share, held_out=held_out, is_measured=False)
        texts.summaries[role] = corpus.summary
        assert corpus.train is not None
        return corpus.train

    def written(self, role: str, sequences: int, texts: Texts) -> SelfWritten:
        """What the model writes for a role: another text for each of them."""
        model: Any = load_model(
            self.model.model,
            dtype=self.model.dtype,
            trust_remote_code=self.model.trust_remote_code,
        )
        if torch.cuda.is_available():
            model.cuda()
        written = self_written(
            model,
            self.tokenizer,
            sequences=sequences,
            sequence_length=self.sequence_length,
            seed=3 * self.seed + (GENERAL, REPLAY, FISHER).index(role),
            cache=cache_folder() / "self-written",
            progress=self.progress,
        )
        texts.summaries[role] = _summary_of_written(written, is_validation=role == GENERAL)
        self.say(
            f"{role}: {sequences:,} sequences of {self.sequence_length:,} tokens that the model "
            "wrote itself"
        )
        return written


def _require_tables(text_field: str, texts: Sequence[Sequence[str] | None]) -> None:
    """Raises InputError where nothing that is read has columns, of which one could be chosen."""
    named = [[*sources] for sources in texts if sources and [*sources] != [SELF]]
    if not any(map(has_columns, (place for one in named for place in Sources.named(one).places))):
        raise InputError(
            f"--text_field {text_field} does nothing here: none of the texts is a table, leave it "
            "out"
        )


def _require_predictions(corpus: Corpus, *, is_measured: bool, is_trained: bool) -> None:
    """Raises InputError where a side that is needed has no token of text to predict."""
    needed = {"train": is_trained, "validation": is_measured}
    for side, text in (("train", corpus.train), ("validation", corpus.validation)):
        if needed[side] and text is not None and not predicts_text(text):
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


def _sequence_length(model: ModelConfig, text: TextConfig) -> int:
    limit = model_limit(model.model, trust_remote_code=model.trust_remote_code)
    length = text.sequence_length or min(DEFAULT_SEQUENCE_LENGTH, limit or DEFAULT_SEQUENCE_LENGTH)
    if limit is not None and length > limit:
        raise InputError(
            f"--sequence_length {length} is above the model's limit of {limit} tokens: lower it"
        )
    return length
