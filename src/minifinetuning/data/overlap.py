"""Find the passages that a model is measured on and trained on too.

Documents may be apart and share text all the same: a book beside its chapters, a page that quotes
another, a document that says the same thing twice.
"""

from collections.abc import Iterable

import numpy
import numpy.typing
import torch

from minifinetuning.data.packing import PackedSequences
from minifinetuning.data.sequences import Sequences
from minifinetuning.data.tokens import TokenIds

RUN = 24
"""Tokens of a run: more than two people write alike by chance."""

Hashes = numpy.typing.NDArray[numpy.uint64]
Mask = numpy.typing.NDArray[numpy.bool_]

_PART = 2**20
"""Tokens of a training text that are looked at in one go."""

_SLOTS = numpy.uint64(2**24)

_FACTOR = 0x9E3779B97F4A7C15


def trained_runs(measured: PackedSequences, trained: Iterable[Sequences]) -> list[Mask]:
    """For each text that is trained on, which runs of a measured one stand in it: (R,) of bool.

        run r = measured.stream[r : r + 24],    where all of it is text of one document

    By hashes of 64 bits: one pass over each text, and memory for the runs of the measured one.
    """
    runs = _hashes(measured.stream.numpy())[_are_text(measured)]
    known, place = numpy.unique(runs, return_inverse=True)
    # Most runs of a training text are told from all of these by a few bits, without a search.
    ends = numpy.zeros(_SLOTS, dtype=bool)
    ends[known % _SLOTS] = True
    found = []
    for text in trained:
        is_known = numpy.zeros(len(known), dtype=bool)
        stream = _stream(text)
        for start in range(0, len(stream), _PART):
            # Parts overlap, so that no run is cut in two.
            hashes = _hashes(stream[start : start + _PART + RUN - 1])
            is_known |= numpy.isin(known, hashes[ends[hashes % _SLOTS]])
        found.append(is_known[place])
    return found


def _are_text(sequences: PackedSequences) -> Mask:
    """(N - 23,): whether a run holds nothing that was put in around documents, nor two of them."""
    marks = sequences.marks
    starts = torch.zeros(len(sequences.stream), dtype=torch.bool)
    starts[sequences.starts] = True
    is_mark = marks.are_ends(sequences.stream) | marks.are_openings(sequences.stream)
    ends = _sums(is_mark.numpy())
    # The first token of a run may be a document's first.
    borders = _sums(starts.numpy())
    count = max(0, len(sequences.stream) - RUN + 1)
    inside: Mask = ends[RUN : RUN + count] == ends[:count]
    inside &= borders[RUN : RUN + count] == borders[1 : 1 + count]
    return inside


def _sums(mask: Mask) -> numpy.typing.NDArray[numpy.int64]:
    """(N + 1,): how many of the first n are true."""
    return numpy.concatenate([[0], numpy.cumsum(mask, dtype=numpy.int64)])


def _stream(text: Sequences) -> TokenIds:
    if isinstance(text, PackedSequences):
        return text.stream.numpy()
    rows = [numpy.asarray(text[index]["input_ids"]) for index in range(len(text))]
    return numpy.concatenate(rows) if rows else numpy.zeros(0, dtype=numpy.int32)


def _hashes(stream: TokenIds) -> Hashes:
    """(N - 23,): a number for each run of 24 tokens, Σ_j mixed(x_{r+j}) B^{23-j} mod 2^64."""
    ids = (stream.astype(numpy.uint64) + numpy.uint64(1)) * numpy.uint64(_FACTOR)
    ids ^= ids >> numpy.uint64(29)
    ids *= numpy.uint64(0xBF58476D1CE4E5B9)
    ids ^= ids >> numpy.uint64(32)
    eight = _doubled(_doubled(_doubled(ids, 1), 2), 4)
    return _followed(_doubled(eight, 8), 16, eight, 8)


def _doubled(hashes: Hashes, length: int) -> Hashes:
    """The hashes of runs of twice the length."""
    return _followed(hashes, length, hashes, length)


def _followed(front: Hashes, length: int, back: Hashes, back_length: int) -> Hashes:
    """The hashes of runs of both lengths together: a front, and right behind it a back."""
    count = max(0, len(back) - length)
    power = numpy.uint64(pow(_FACTOR, back_length, 2**64))
    joined: Hashes = front[:count] * power + back[length : length + count]
    return joined
