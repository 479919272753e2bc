"""Read sources into a corpus: documents, split and packed, or the same from the cache."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from minifinetuning.data.cache import cached_corpus
from minifinetuning.data.config import DEFAULT_SEQUENCE_LENGTH, TextConfig
from minifinetuning.data.corpus import Corpus, CorpusSummary, counted
from minifinetuning.data.documents import DocumentStream
from minifinetuning.data.packing import Marks, PackedSequences, pack_documents
from minifinetuning.data.repeated_lines import RepeatedLines, WithoutRepeatedLines
from minifinetuning.data.splits import NOTHING, HeldOut, Split, total_tokens
from minifinetuning.data.streaming import split_stream
from minifinetuning.data.tokenizers import closing_token_id, opening_token_ids
from minifinetuning.data.tokens import TokenizedDocument, token_notes
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
    train_tokens: int | str = 4_000_000,
    validation_tokens: int | str = 500_000,
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
    """Read, tokenize, split and pack the sources: `corpus_from_sources`, by keywords.

    Budgets and `sequence_length` are in tokens: 500_000 or "0.5M". See `DocumentStream` for the
    sources.
    """
    text = TextConfig(
        text_field=text_field,
        skip_unreadable=skip_unreadable,
        drop_boilerplate=drop_boilerplate,
        train_tokens=str(train_tokens),
        validation_tokens=str(validation_tokens),
        sequence_length=sequence_length,
    )
    return corpus_from_sources(
        sources,
        tokenizer,
        text,
        seed=seed,
        with_train=with_train,
        held_out=held_out,
        progress=progress,
        cache=cache,
        warn=warn,
    )


def corpus_from_sources(
    sources: Sequence[str],
    tokenizer: "PreTrainedTokenizerBase",
    text: TextConfig,
    *,
    seed: int = 42,
    with_train: bool = True,
    held_out: HeldOut = NOTHING,
    progress: bool = False,
    cache: Path | None = None,
    warn: Callable[[str], None] = logger.warning,
) -> Corpus:
    """Read, tokenize, split and pack the sources as `text` says.

    See `DocumentStream` for what sources may be, and `split_documents` for the sides.
    `with_train=False` gives the same validation side alone. What is `held_out` elsewhere, and
    near-copies of it, are not trained on; the validation side does not depend on it. What is held
    in memory grows with the budgets, and by at most 24 bytes for each document read. The folder
    `cache` keeps the corpus for the next time that the same is asked for, and other corpora up to
    2 GiB in all. `warn` is given a sentence for each thing that makes figures of the corpus say
    little.

    Raises InputError as `DocumentStream` does, where the tokenizer has no EOS token, or where the
    training side holds fewer tokens than one sequence.
    """
    # Before the sources are read, which may take long.
    closing_token_id(tokenizer)
    stream = DocumentStream(sources, text.text_field, text.skip_unreadable)

    def read() -> Corpus:
        return _read(stream, tokenizer, text, seed, with_train, held_out, progress)

    if cache is None:
        corpus = read()
    else:
        settings = {"seed": seed, "with_train": with_train, "held_out": held_out.digest}
        corpus = cached_corpus(cache, stream, tokenizer, text, settings, read)
    for caution in corpus.summary.cautions():
        warn(caution)
    return corpus


def _read(
    documents: DocumentStream,
    tokenizer: "PreTrainedTokenizerBase",
    text: TextConfig,
    seed: int,
    with_train: bool,
    held_out: HeldOut,
    progress: bool,
) -> Corpus:
    """The corpus of all documents, with its figures."""
    length = text.sequence_length or DEFAULT_SEQUENCE_LENGTH
    lines = RepeatedLines(documents)
    dropping = None
    if text.drop_boilerplate:
        for _ in tqdm(lines, "lines", leave=False, disable=not progress):
            pass
        dropping = WithoutRepeatedLines(documents, lines.documents_of)
    found = split_stream(
        lines if dropping is None else dropping,
        tokenizer,
        train_tokens=text.train_budget if with_train else 0,
        validation_tokens=text.validation_budget,
        seed=seed,
        held_out=held_out,
        progress=progress,
    )
    split = found.split
    if with_train:
        _require_one_sequence(split, documents.sources, length)
    train = _packed(split.train, length, tokenizer) if with_train else None
    validation = _packed(split.validation, length, tokenizer)
    emptied, repeated = (dropping.empty, dropping.repeated) if dropping else (0, 0)
    alike = found.near_copies()
    summary = CorpusSummary(
        sources=[printable(source) for source in documents.sources],
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
        sequence_length=length,
        left_out=dict(documents.left_out),
        notes=[*documents.notes, *token_notes(found.documents, tokenizer)],
        cut_documents=split.cut,
        near_copies=len(alike),
        near_copy_tokens=total_tokens(alike),
        are_near_copies_apart=split.are_apart,
        left_out_near_copies=len(split.left_out),
        held_out_copies=len(found.copies),
        held_out_near_copies=found.held_out_near_copies,
        held_out_met=len(found.copies.union(held_out.copied_in(found.signatures))),
        repeated_lines=len(lines.documents_of),
        repeated_line_share=lines.share,
        repeated_line=lines.example,
        are_repeated_lines_dropped=text.drop_boilerplate,
    )
    return Corpus(train, validation, summary, split.held_out)


def _packed(
    documents: Sequence[TokenizedDocument], length: int, tokenizer: "PreTrainedTokenizerBase"
) -> PackedSequences:
    # Not the tokenizer's own padding, for which not every model has an embedding: it is masked.
    end = closing_token_id(tokenizer)
    return pack_documents(documents, length, end, marks=Marks(end, opening_token_ids(tokenizer)))


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
