"""From sources to a corpus: read, split by document and packed, or taken from the cache."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from minifinetuning.data.corpus import Corpus, CorpusSummary
from minifinetuning.data.corpus_cache import cache_entry
from minifinetuning.data.documents import Document, Documents, DocumentStream
from minifinetuning.data.front import split_front
from minifinetuning.data.packing import (
    Marks,
    PackedSequences,
    pack_documents,
    require_sequence_length,
)
from minifinetuning.data.splits import (
    deciding_tokens,
    require_budget,
    split_documents,
    total_tokens,
    validation_only,
)
from minifinetuning.data.tokens import (
    TokenizedDocument,
    closing_token_id,
    document_identity,
    opening_token_ids,
    token_notes,
    tokenized_batches,
)
from minifinetuning.errors import InputError
from minifinetuning.files import printable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHARACTERS_PER_TOKEN = 8
"""More than text has in almost any language and vocabulary: English has 4 to 5."""


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
    with_train: bool = True,
    progress: bool = False,
    cache: Path | None = None,
    without: frozenset[str] = frozenset(),
) -> Corpus:
    """The sources read, tokenized, split by document and packed.

    Budgets and `sequence_length` are in tokens. See `DocumentStream` for the sources, and
    `corpus_from_documents` for the rest and for the errors raised. What is held in memory grows
    with the budgets, not with the sources. The folder `cache` keeps the corpus for the next time
    that the same is asked for, and other corpora up to 2 GiB in all.
    """
    # Before the sources are read, which may take long.
    _require_usable(tokenizer, sequence_length, train_tokens, validation_tokens)
    stream = DocumentStream(sources, text_field, skip_unreadable)
    entry = None
    if cache is not None:
        settings: dict[str, int | str] = {
            "sequence_length": sequence_length,
            "train_tokens": train_tokens,
            "validation_tokens": validation_tokens,
            "seed": seed,
            "with_train": with_train,
            "without": hashlib.sha256("".join(sorted(without)).encode()).hexdigest(),
        }
        entry = cache_entry(cache, stream, tokenizer, settings)
    if entry is not None and (kept := entry.corpus()) is not None:
        return kept
    corpus = corpus_from_documents(
        stream,
        sources,
        tokenizer,
        sequence_length=sequence_length,
        train_tokens=train_tokens,
        validation_tokens=validation_tokens,
        seed=seed,
        with_train=with_train,
        progress=progress,
        without=without,
    )
    if entry is not None:
        entry.keep(corpus)
    return corpus


def corpus_from_documents(
    documents: Documents | DocumentStream,
    sources: Sequence[str],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    sequence_length: int,
    train_tokens: int = 4_000_000,
    validation_tokens: int = 500_000,
    seed: int = 42,
    with_train: bool = True,
    progress: bool = False,
    without: frozenset[str] = frozenset(),
) -> Corpus:
    """The documents tokenized, split by `split_documents` and packed by `pack_documents`.

    `sources` name the documents to a person. `with_train=False` gives the same validation alone.
    Documents whose identity is in `without` are left out, as if they were not there.

    Raises InputError where the tokenizer has no EOS token, a budget or `sequence_length` is out
    of range, all documents are left out, or the training side holds fewer tokens than one sequence.
    """
    _require_usable(tokenizer, sequence_length, train_tokens, validation_tokens)
    tokenized = _deciding_documents(
        _Others(documents, without),
        tokenizer,
        train_tokens if with_train else 0,
        validation_tokens,
        seed,
        progress,
    )
    if without and not tokenized:
        raise InputError(
            f"{', '.join(sources)}: every document is held out for validation already: give others"
        )
    train: list[TokenizedDocument] = []
    if with_train:
        split = split_documents(tokenized, train_tokens, validation_tokens, seed)
        train, validation = split.train, split.validation
        _require_one_sequence(train, sources, sequence_length)
    else:
        validation = validation_only(tokenized, validation_tokens, seed)

    def packed(side: Sequence[TokenizedDocument]) -> PackedSequences:
        end = closing_token_id(tokenizer)
        marks = Marks(end, opening_token_ids(tokenizer))
        # Not the tokenizer's own padding, for which not every model has an embedding: it is masked.
        return pack_documents(side, sequence_length, end, marks=marks)

    train_sequences = packed(train) if with_train else None
    validation_sequences = packed(validation)
    summary = CorpusSummary(
        sources=[printable(source) for source in sources],
        documents=documents.count,
        empty=documents.empty,
        repeated=documents.repeated,
        skipped=len(documents.skipped),
        tokenized_documents=len(tokenized),
        tokens=total_tokens(tokenized),
        train_documents=len(train),
        train_tokens=total_tokens(train),
        train_sequences=0 if train_sequences is None else len(train_sequences),
        validation_documents=len(validation),
        validation_tokens=total_tokens(validation),
        validation_sequences=len(validation_sequences),
        sequence_length=sequence_length,
        left_out=dict(documents.left_out),
        notes=[*documents.notes, *token_notes(tokenized, tokenizer)],
    )
    identities = frozenset(document.identity for document in validation)
    return Corpus(train_sequences, validation_sequences, summary, identities)


class _Others:
    """The documents, gone through anew each time, without those of some identities."""

    def __init__(self, documents: Iterable[Document], without: frozenset[str]) -> None:
        self.documents, self.without = documents, without

    def __iter__(self) -> Iterator[Document]:
        for document in self.documents:
            if not self.without or document_identity(document.text) not in self.without:
                yield document


def _require_usable(
    tokenizer: "PreTrainedTokenizerBase",
    sequence_length: int,
    train_tokens: int,
    validation_tokens: int,
) -> None:
    closing_token_id(tokenizer)
    require_sequence_length(sequence_length)
    require_budget("train_tokens", train_tokens)
    require_budget("validation_tokens", validation_tokens)


def _deciding_documents(
    documents: Iterable[Document],
    tokenizer: "PreTrainedTokenizerBase",
    train_tokens: int,
    validation_tokens: int,
    seed: int,
    progress: bool,
) -> list[TokenizedDocument]:
    """The front of the split's order, tokenized, as far as it decides the split of them all."""
    characters = _CHARACTERS_PER_TOKEN * deciding_tokens(0, train_tokens, validation_tokens)
    while True:
        read = tqdm(documents, "reading", unit=" documents", leave=False, disable=not progress)
        front = split_front(read, seed, characters)
        tokenized: list[TokenizedDocument] = []
        tokens = longest = 0
        for batch in tokenized_batches(front.documents, tokenizer, progress):
            for document in batch:
                tokenized.append(document)
                tokens += len(document.token_ids)
                longest = max(longest, len(document.token_ids))
                if tokens >= deciding_tokens(longest, train_tokens, validation_tokens):
                    return tokenized
        if front.is_all:
            return tokenized
        # Characters in long tokens, or one document of a large part of the budgets: once more.
        characters *= 4


def _require_one_sequence(
    train: Sequence[TokenizedDocument], sources: Sequence[str], sequence_length: int
) -> None:
    tokens = total_tokens(train)
    if tokens < sequence_length:
        raise InputError(
            f"{', '.join(sources)}: {tokens:,} tokens for training, but one sequence needs "
            f"{sequence_length:,}: give more text, or a smaller --sequence_length"
        )
