"""From sources to a corpus: split by document, packed, and summed up for a person."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from minifinetuning.data.documents import Documents, read_documents
from minifinetuning.data.packing import PackedSequences, pack_documents, require_sequence_length
from minifinetuning.data.splits import (
    deciding_tokens,
    order_key,
    require_budget,
    split_documents,
    total_tokens,
    validation_only,
)
from minifinetuning.data.tokens import (
    TokenizedDocument,
    closing_token_id,
    document_identity,
    tokenized_batches,
)
from minifinetuning.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class CorpusSummary:
    """What was read and what it became; all counts of tokens are of the documents alone.

    `documents` leaves out the `empty` and `repeated` ones; `skipped` counts files. Only
    `tokenized_documents` of them, holding `tokens`, were tokenized: as many as the budgets need.
    """

    sources: list[str]
    documents: int
    empty: int
    repeated: int
    skipped: int
    tokenized_documents: int
    tokens: int
    train_documents: int
    train_tokens: int
    train_sequences: int
    validation_documents: int
    validation_tokens: int
    validation_sequences: int
    sequence_length: int

    def __str__(self) -> str:
        left_out = f"left out: {self.empty:,} empty, {self.repeated:,} repeated"
        if self.skipped:
            left_out += f", {self.skipped:,} unreadable files"
        tokenized = f"{self.tokens:,} tokens"
        if self.tokenized_documents < self.documents:
            tokenized += f" in the {self.tokenized_documents:,} that the budgets need"
        lines = [
            f"{', '.join(self.sources)}: {self.documents:,} documents ({left_out}), {tokenized}",
        ]
        if self.train_documents:
            lines.append(
                f"  training: {self.train_documents:,} documents, {self.train_tokens:,} tokens, "
                f"{self.train_sequences:,} sequences"
            )
        lines.append(
            f"  validation: {self.validation_documents:,} documents, "
            f"{self.validation_tokens:,} tokens, {self.validation_sequences:,} sequences "
            f"of {self.sequence_length:,}"
        )
        return "\n".join(lines)


@dataclass(frozen=True)
class Corpus:
    """Packed training (None where only validation was asked for) and validation sequences."""

    train: PackedSequences | None
    validation: PackedSequences
    summary: CorpusSummary


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
) -> Corpus:
    """The sources read, tokenized, split by document and packed.

    Budgets and `sequence_length` are in tokens. See `read_documents` for the sources, and
    `corpus_from_documents` for the rest and for the errors raised.
    """
    # Before the sources are read, which may take long.
    _require_usable(tokenizer, sequence_length, train_tokens, validation_tokens)
    return corpus_from_documents(
        read_documents(sources, text_field, skip_unreadable),
        sources,
        tokenizer,
        sequence_length=sequence_length,
        train_tokens=train_tokens,
        validation_tokens=validation_tokens,
        seed=seed,
        with_train=with_train,
        progress=progress,
    )


def corpus_from_documents(
    documents: Documents,
    sources: Sequence[str],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    sequence_length: int,
    train_tokens: int = 4_000_000,
    validation_tokens: int = 500_000,
    seed: int = 42,
    with_train: bool = True,
    progress: bool = False,
) -> Corpus:
    """The documents tokenized, split by `split_documents` and packed by `pack_documents`.

    `sources` name the documents to a person. `with_train=False` gives the same validation alone.

    Raises InputError where the tokenizer has no EOS token, a budget or `sequence_length` is out
    of range, or the training side holds fewer tokens than one sequence.
    """
    _require_usable(tokenizer, sequence_length, train_tokens, validation_tokens)
    tokenized = _deciding_documents(
        documents, tokenizer, train_tokens if with_train else 0, validation_tokens, seed, progress
    )
    train: list[TokenizedDocument] = []
    if with_train:
        split = split_documents(tokenized, train_tokens, validation_tokens, seed)
        train, validation = split.train, split.validation
        _require_one_sequence(train, sources, sequence_length)
    else:
        validation = validation_only(tokenized, validation_tokens, seed)

    def packed(side: Sequence[TokenizedDocument]) -> PackedSequences:
        eos = closing_token_id(tokenizer)
        pad = eos if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        bos = tokenizer.bos_token_id
        return pack_documents(side, sequence_length, pad, eos_token_id=eos, bos_token_id=bos)

    train_sequences = packed(train) if with_train else None
    validation_sequences = packed(validation)
    summary = CorpusSummary(
        sources=list(sources),
        documents=len(documents.items),
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
    )
    return Corpus(train_sequences, validation_sequences, summary)


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
    documents: Documents,
    tokenizer: "PreTrainedTokenizerBase",
    train_tokens: int,
    validation_tokens: int,
    seed: int,
    progress: bool,
) -> list[TokenizedDocument]:
    """The front of the split's order, tokenized, as far as it decides the split of them all."""
    ordered = sorted(
        documents.items, key=lambda document: order_key(document_identity(document.text), seed)
    )
    tokenized: list[TokenizedDocument] = []
    tokens = longest = 0
    for batch in tokenized_batches(ordered, tokenizer, progress):
        tokenized += batch
        tokens += total_tokens(batch)
        longest = max(longest, *(len(document.token_ids) for document in batch))
        if tokens >= deciding_tokens(longest, train_tokens, validation_tokens):
            break
    return tokenized


def _require_one_sequence(
    train: Sequence[TokenizedDocument], sources: Sequence[str], sequence_length: int
) -> None:
    tokens = total_tokens(train)
    if tokens < sequence_length:
        raise InputError(
            f"{', '.join(sources)}: {tokens:,} tokens for training, but one sequence needs "
            f"{sequence_length:,}: give more text, or a smaller --sequence_length"
        )
