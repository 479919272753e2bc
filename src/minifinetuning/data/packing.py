"""Token streams to sequences of one length, in which every token is predicted exactly once."""

import hashlib
from collections.abc import Sequence

import numpy
import torch
from torch import Tensor
from torch.utils.data import Dataset

from minifinetuning.data.tokens import TokenIds, TokenizedDocument
from minifinetuning.errors import InputError

_IGNORED_LABEL = -100


class PackedSequences(Dataset[dict[str, Tensor]]):
    """Sequences of T tokens over one stream of N; neighbours share one token.

        sequence k = stream[k * (T - 1) : k * (T - 1) + T]

    so that with labels shifted inside the loss (the logits at t predict token t + 1) every token
    of the stream but the first is predicted once. An item holds `input_ids`, `attention_mask` and
    `labels`, each (T,). The last one is padded: `pad_token_id`, mask 0 and label -100.
    `stream` is (N,) of int32, and `identity` the SHA-256 of `sequence_length` and the stream.
    """

    def __init__(self, stream: TokenIds, sequence_length: int, pad_token_id: int) -> None:
        require_sequence_length(sequence_length)
        self.sequence_length = sequence_length
        self.token_count = len(stream)
        self.predicted_tokens = max(0, len(stream) - 1)
        self.identity = _identity(stream, sequence_length)
        self.stream = torch.from_numpy(stream.astype(numpy.int32))
        self.pad_token_id = pad_token_id

    def __len__(self) -> int:
        return -(-self.predicted_tokens // (self.sequence_length - 1))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sequence {index} of {len(self)}")
        start = index % len(self) * (self.sequence_length - 1)
        tokens = self.stream[start : start + self.sequence_length].long()
        padding = (0, self.sequence_length - len(tokens))
        pad = torch.nn.functional.pad
        return {
            "input_ids": pad(tokens, padding, value=self.pad_token_id),
            "attention_mask": pad(torch.ones_like(tokens), padding, value=0),
            "labels": pad(tokens, padding, value=_IGNORED_LABEL),
        }


def pack_documents(
    documents: Sequence[TokenizedDocument],
    sequence_length: int,
    pad_token_id: int,
    *,
    eos_token_id: int | None = None,
    bos_token_id: int | None = None,
) -> PackedSequences:
    """The documents as one stream, packed: `[EOS] d1 d2 ... dn`, each of which closes with EOS.

    The EOS in front, so that the first token of d1 is predicted too, is left out where d1 begins
    with `bos_token_id`. `eos_token_id` is by default the last token of d1: give it where d1 may
    have been cut.

    Raises InputError where there are no documents, or `sequence_length` (tokens) is under 2.
    """
    require_sequence_length(sequence_length)
    if not documents:
        raise InputError("there are no documents to pack: give at least one")
    first = documents[0].token_ids
    separator = first[-1] if eos_token_id is None else eos_token_id
    opening = [] if first[0] == bos_token_id else [separator]
    parts = [document.token_ids for document in documents]
    stream = numpy.concatenate([numpy.array(opening, dtype=numpy.int32), *parts])
    return PackedSequences(stream, sequence_length, pad_token_id)


def require_sequence_length(sequence_length: int) -> None:
    """Raises InputError where a sequence is too short (under 2 tokens) to predict anything."""
    if sequence_length < 2:
        raise InputError(
            f"--sequence_length is {sequence_length}: it must be 2 or more, "
            "since a token is predicted from the one before it"
        )


def _identity(stream: TokenIds, sequence_length: int) -> str:
    """SHA-256 of the sequence length and the token ids, the same on every machine."""
    digest = hashlib.sha256(f"{sequence_length}:".encode())
    digest.update(stream.astype("<i8").tobytes())
    return digest.hexdigest()
