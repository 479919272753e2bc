"""Pack documents into sequences of one length, in which every token is predicted once."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import numpy.typing
import torch
from torch import Tensor
from torch.utils.data import Dataset

from minifinetuning.data.sequences import DOCUMENT_COLUMN, END_COLUMN
from minifinetuning.data.tokens import TokenIds, TokenizedDocument
from minifinetuning.errors import InputError

_IGNORED_LABEL = -100


@dataclass(frozen=True)
class Marks:
    """Which tokens of a stream are not text: those that were put in around each document.

    `end` closes a document: it is trained, and scored in a figure of its own. `openings` (BOS and
    its like) are neither trained nor scored: nobody has to predict them. None and none where all
    is text.
    """

    end: int | None = None
    openings: frozenset[int] = frozenset()

    def are_ends(self, tokens: Tensor) -> Tensor:
        """(T,) of bool: which tokens close a document."""
        if self.end is None:
            return torch.zeros_like(tokens, dtype=torch.bool)
        return tokens.eq(self.end)

    def are_openings(self, tokens: Tensor) -> Tensor:
        """(T,) of bool: which tokens open a document; also an end right behind another one.

        No document is empty, so a second one is the BOS of a tokenizer that uses one token as both.
        """
        ends = self.are_ends(tokens)
        again = torch.zeros_like(ends)
        again[1:] = ends[1:] & ends[:-1]
        return torch.isin(tokens, torch.tensor(sorted(self.openings), dtype=tokens.dtype)) | again


ALL_TEXT = Marks()


class PackedSequences(Dataset[dict[str, Tensor]]):
    """Sequences of T tokens over one stream of N; neighbours share one token.

        sequence k = stream[k * (T - 1) : k * (T - 1) + T]

    so that with labels shifted inside the loss (the logits at t predict token t + 1) every token
    of the stream but the first is predicted once. An item holds `input_ids`, `attention_mask`,
    `labels`, `document_number` (of the document that a token belongs to) and
    `is_document_end`, each (T,). Openings have the label -100. The last item is padded:
    `pad_token_id`, mask 0 and label -100.

    `stream` is (N,) of int32, `starts` (D,) where the documents begin in it (each number is the
    place in `starts`; without it all is one document), and `identity` the SHA-256 of
    `sequence_length` and the stream, and of the openings where there are any.
    """

    def __init__(
        self,
        stream: TokenIds,
        sequence_length: int,
        pad_token_id: int,
        *,
        starts: numpy.typing.NDArray[numpy.int64] | None = None,
        marks: Marks = ALL_TEXT,
    ) -> None:
        require_sequence_length(sequence_length)
        self.sequence_length = sequence_length
        self.token_count = len(stream)
        self.predicted_tokens = max(0, len(stream) - 1)
        self.identity = _identity(stream, sequence_length, marks)
        self.stream = torch.from_numpy(stream.astype(numpy.int32))
        self.starts = torch.zeros(1, dtype=torch.long)
        if starts is not None:
            self.starts = torch.from_numpy(starts.astype(numpy.int64))
        self.pad_token_id = pad_token_id
        self.marks = marks

    def __len__(self) -> int:
        return -(-self.predicted_tokens // (self.sequence_length - 1))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sequence {index} of {len(self)}")
        start = index % len(self) * (self.sequence_length - 1)
        tokens = self.stream[start : start + self.sequence_length].long()
        labels = tokens.masked_fill(self.marks.are_openings(tokens), _IGNORED_LABEL)
        documents = torch.bucketize(torch.arange(len(tokens)) + start, self.starts, right=True) - 1
        padding = (0, self.sequence_length - len(tokens))
        pad = torch.nn.functional.pad
        return {
            "input_ids": pad(tokens, padding, value=self.pad_token_id),
            "attention_mask": pad(torch.ones_like(tokens), padding, value=0),
            "labels": pad(labels, padding, value=_IGNORED_LABEL),
            # What stands in front of the first document belongs to it.
            DOCUMENT_COLUMN: pad(documents.clamp(min=0), padding, value=0),
            END_COLUMN: pad(self.marks.are_ends(tokens), padding, value=False),
        }


def pack_documents(
    documents: Sequence[TokenizedDocument],
    sequence_length: int,
    pad_token_id: int,
    *,
    marks: Marks = ALL_TEXT,
) -> PackedSequences:
    """The documents as one stream, packed: `[EOS] d1 d2 ... dn`, each of which closes with EOS.

    The EOS in front (`marks.end`, by default the last token of d1), so that the first token of d1
    is predicted too, is left out where d1 begins with an opening.

    Raises InputError where there are no documents, or `sequence_length` (tokens) is under 2.
    """
    require_sequence_length(sequence_length)
    if not documents:
        raise InputError("there are no documents to pack: give at least one")
    first = documents[0].token_ids
    separator = first[-1] if marks.end is None else marks.end
    is_open = int(first[0]) in marks.openings or first[0] == marks.end
    opening = [] if is_open else [separator]
    parts = [document.token_ids for document in documents]
    stream = numpy.concatenate([numpy.array(opening, dtype=numpy.int32), *parts])
    lengths = [len(opening), *(len(part) for part in parts[:-1])]
    starts = numpy.cumsum(lengths, dtype=numpy.int64)
    return PackedSequences(stream, sequence_length, pad_token_id, starts=starts, marks=marks)


def require_sequence_length(sequence_length: int) -> None:
    """Raises InputError where a sequence is too short (under 2 tokens) to predict anything."""
    if sequence_length < 2:
        raise InputError(
            f"--sequence_length is {sequence_length}: it must be 2 or more, "
            "since a token is predicted from the one before it"
        )


def _identity(stream: TokenIds, sequence_length: int, marks: Marks) -> str:
    """SHA-256 of what decides inputs and labels, the same on every machine."""
    openings = ",".join(map(str, sorted(marks.openings)))
    digest = hashlib.sha256(f"{sequence_length}:{openings}".encode())
    digest.update(stream.astype("<i8").tobytes())
    return digest.hexdigest()
