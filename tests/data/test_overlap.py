import numpy
import pytest

from minifinetuning.data.overlap import RUN, trained_runs
from minifinetuning.data.packing import Marks, PackedSequences, pack_documents
from minifinetuning.data.tokens import TokenizedDocument

END = 7


def packed(*documents):
    """Documents of token ids, each closed, as validation and training are."""
    closed = [
        TokenizedDocument(str(number), numpy.array([*ids, END], dtype=numpy.int32))
        for number, ids in enumerate(documents)
    ]
    return pack_documents(closed, 16, END, marks=Marks(END))


def drawn(count, seed):
    return numpy.random.default_rng(seed).integers(10, 300, count).tolist()


def by_hand(documents, text):
    runs = [one[n : n + RUN] for one in documents for n in range(len(one) - RUN + 1)]
    trained = {tuple(text[n : n + RUN]) for n in range(len(text) - RUN + 1)}
    return [tuple(run) in trained for run in runs]


@pytest.mark.parametrize("part", [1, 30, 10**6])
def test_runs_that_are_trained_on_are_found_by_their_tokens(part, monkeypatch):
    monkeypatch.setattr("minifinetuning.data.overlap._PART", part)
    one, two, other = drawn(100, 1), drawn(60, 2), drawn(200, 3)
    trained = [packed(other[:50] + one[20:70] + other[50:]), packed(two), packed(other)]
    masks = trained_runs(packed(one, two), trained)
    for mask, text in zip(masks, trained, strict=True):
        assert mask.tolist() == by_hand([one, two], text.stream.tolist())
    assert [mask.sum() for mask in masks] == [50 - RUN + 1, 60 - RUN + 1, 0]


def test_runs_are_of_one_document():
    """What stands around documents, and where they meet, is no text that was repeated."""
    short = [[number] * 10 for number in range(20, 40)]
    assert [len(mask) for mask in trained_runs(packed(*short), [packed(*short)])] == [0]
    # Documents that are cut have no end of their own in the stream.
    stream = numpy.array(drawn(80, 1), dtype=numpy.int32)
    cut = PackedSequences(stream, 16, END, starts=numpy.array([0, 40]))
    assert [mask.tolist() for mask in trained_runs(cut, [cut])] == [[True] * 34]


def test_other_sequences_are_looked_at_as_well():
    ids = drawn(60, 1)
    assert trained_runs(packed(ids), [[{"input_ids": ids[:40]}, {"input_ids": ids[40:]}], []])[
        0
    ].all()
