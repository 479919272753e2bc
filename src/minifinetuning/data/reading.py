"""From sources to a corpus: read, split and packed, or taken from the cache."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from minifinetuning.data.corpus import Corpus, CorpusSettings, CorpusSummary
from minifinetuning.data.corpus_cache import cache_entry
from minifinetuning.data.decided import Watched, decided
from minifinetuning.data.documents import Documents, DocumentStream
from minifinetuning.data.held_out import NOTHING, HeldOut
from minifinetuning.data.packing import (
    Marks,
    PackedSequences,
    pack_documents,
    require_sequence_length,
)
from minifinetuning.data.places import counted
from minifinetuning.data.repeated_lines import RepeatedLines, WithoutRepeatedLines
from minifinetuning.data.splits import Split, require_budget, total_tokens
from minifinetuning.data.tokens import (
    TokenizedDocument,
    closing_token_id,
    opening_token_ids,
    token_notes,
)
from minifinetuning.errors import InputError
from minifinetuning.files import printable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def read_corpus(
    sources: Sequence[str],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    sequence_length: int,
    train_tokens: int = 4_000_000,
    validation_tokens: int = 500_000,
    seed: int = 42,
    text_field: str | None = None,
    skip_unreadable: bool = False,
    drop_boilerplate: bool = False,
    with_train: bool = True,
    progress: bool = False,
    cache: Path | None = None,
    held_out: HeldOut = NOTHING,
    warn: Callable[[str], None] = logger.warning,
) -> Corpus:
    """The sources read, tokenized, split and packed.

    Budgets and `sequence_length` are in tokens. See `DocumentStream` for the sources, and
    `corpus_from_documents` for the rest and for the errors raised. What is held in memory grows
    with the budgets, and by at most 24 bytes for each document read. The folder `cache` keeps the
    corpus for the next time that the same is asked for, and other corpora up to 2 GiB in all.
    `warn` is given a sentence for each thing that makes figures of the corpus say little.
    """
    settings = CorpusSettings(
        sequence_length, train_tokens, validation_tokens, seed, with_train, drop_boilerplate
    )
    # Before the sources are read, which may take long.
    _require_usable(tokenizer, settings)
    stream = DocumentStream(sources, text_field, skip_unreadable)
    entry = None
    if cache is not None:
        key = asdict(settings) | {"held_out": held_out.digest}
        entry = cache_entry(cache, stream, tokenizer, key)
    corpus = None if entry is None else entry.corpus()
    if corpus is None:
        corpus = corpus_from_documents(
            stream, sources, tokenizer, settings, held_out=held_out, progress=progress
        )
        if entry is not None:
            entry.keep(corpus)
    for caution in corpus.summary.cautions():
        warn(caution)
    return corpus


def corpus_from_documents(
    documents: Documents | DocumentStream,
    sources: Sequence[str],
    tokenizer: "PreTrainedTokenizerBase",
    settings: CorpusSettings,
    *,
    held_out: HeldOut = NOTHING,
    progress: bool = False,
) -> Corpus:
    """The documents tokenized, split by `split_documents` and packed by `pack_documents`.

    `sources` name the documents to a person. What is `held_out` elsewhere, and near-copies of it,
    are not trained on; the validation side does not depend on it.

    Raises InputError where the tokenizer has no EOS token, a budget or `sequence_length` is out
    of range, or the training side holds fewer tokens than one sequence.
    """
    _require_usable(tokenizer, settings)
    lines = RepeatedLines()
    watched = Watched(documents, held_out, lines)
    dropping = None
    if settings.drop_boilerplate:
        for document in tqdm(documents, "lines", leave=False, disable=not progress):
            lines.add(document)
        dropping = WithoutRepeatedLines(documents, lines.documents_of)
        watched = Watched(dropping, held_out, None)
    found = decided(watched, tokenizer, settings, held_out, progress=progress)
    split = found.split
    if settings.with_train:
        _require_one_sequence(split, sources, settings.sequence_length)

    def packed(side: Sequence[TokenizedDocument]) -> PackedSequences:
        end = closing_token_id(tokenizer)
        marks = Marks(end, opening_token_ids(tokenizer))
        # Not the tokenizer's own padding, for which not every model has an embedding: it is masked.
        return pack_documents(side, settings.sequence_length, end, marks=marks)

    train = packed(split.train) if settings.with_train else None
    validation = packed(split.validation)
    emptied, repeated = (dropping.empty, dropping.repeated) if dropping else (0, 0)
    alike = found.near_copies()
    summary = CorpusSummary(
        sources=[printable(source) for source in sources],
        documents=documents.count - emptied - repeated,
        empty=documents.empty + emptied,
        repeated=documents.repeated + repeated,
        skipped=len(documents.skipped),
        tokenized_documents=len(found.documents),
        tokens=total_tokens(found.documents),
        train_documents=len(split.train),
        train_tokens=total_tokens(split.train),
        train_sequences=0 if train is None else len(train),
        validation_documents=len(split.validation),
        validation_tokens=total_tokens(split.validation),
        validation_sequences=len(validation),
        sequence_length=settings.sequence_length,
        left_out=dict(documents.left_out),
        notes=[*documents.notes, *token_notes(found.documents, tokenizer)],
        cut_documents=split.cut,
        near_copies=len(alike),
        near_copy_tokens=total_tokens(alike),
        are_near_copies_apart=split.are_apart,
        left_out_near_copies=len(split.left_out),
        held_out_copies=len(watched.copies),
        held_out_near_copies=found.held_out_near_copies,
        held_out_met=len(watched.copies | held_out.met(found.signatures)),
        repeated_lines=len(lines.documents_of),
        repeated_line_share=lines.share,
        repeated_line=lines.example,
        are_repeated_lines_dropped=settings.drop_boilerplate,
    )
    return Corpus(train, validation, summary, found.held_out())


def _require_usable(tokenizer: "PreTrainedTokenizerBase", settings: CorpusSettings) -> None:
    closing_token_id(tokenizer)
    require_sequence_length(settings.sequence_length)
    require_budget("train_tokens", settings.train_tokens)
    require_budget("validation_tokens", settings.validation_tokens)


def _require_one_sequence(split: Split, sources: Sequence[str], sequence_length: int) -> None:
    tokens = total_tokens(split.train)
    if tokens < sequence_length:
        reason = "give more text, or a smaller --sequence_length"
        if split.passed_over:
            reason += (
                f" (held out for validation already: {counted(split.passed_over, 'document')}, "
                "of which nothing is trained on: a lower --validation_tokens holds out fewer)"
            )
        named = ", ".join(map(printable, sources))
        raise InputError(
            f"{named}: {counted(tokens, 'token')} for training, but one sequence needs "
            f"{sequence_length:,}: {reason}"
        )
