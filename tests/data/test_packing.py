import hashlib
import itertools
import struct

import numpy
import pytest
import torch
from torch.utils.data import DataLoader

from minifinetuning.data import Marks, TokenizedDocument, pack_documents
from minifinetuning.errors import InputError

EOS, BOS, PAD = 0, 1, 2
MARKS = Marks(end=EOS, openings=frozenset({BOS}))


def documents(*token_lists):
    return [
        TokenizedDocument(str(number), numpy.array(token_ids, dtype=numpy.int32))
        for number, token_ids in enumerate(token_lists)
    ]


def predictions(sequences):
    """All (context token, predicted token) pairs under the shift of Hugging Face's losses."""
    pairs = []
    for item in sequences:
        contexts, labels = item["input_ids"][:-1], item["labels"][1:]
        kept = labels != -100
        pairs += zip(contexts[kept].tolist(), labels[kept].tolist(), strict=True)
    return pairs


@pytest.mark.parametrize("sequence_length", [2, 3, 4, 5, 8, 11, 12, 13, 50])
def test_every_token_is_predicted_once_from_the_one_before(sequence_length):
    packed = pack_documents(
        documents([5, 6, 7, EOS], [8, EOS], [9, 10, 11, 12, EOS]), sequence_length, PAD
    )
    stream = [EOS, 5, 6, 7, EOS, 8, EOS, 9, 10, 11, 12, EOS]
    assert predictions(packed) == list(itertools.pairwise(stream))
    assert (packed.token_count, packed.predicted_tokens) == (12, 11)
    assert packed.sequence_length == sequence_length


def test_the_last_sequence_is_padded_and_masked():
    packed = pack_documents(documents([5, 6, 7, EOS]), 4, PAD)
    assert len(packed) == 2
    first, last = packed[0], packed[-1]
    assert first["input_ids"].tolist() == first["labels"].tolist() == [EOS, 5, 6, 7]
    assert first["attention_mask"].tolist() == [1, 1, 1, 1]
    assert last["input_ids"].tolist() == [7, EOS, PAD, PAD]
    assert last["attention_mask"].tolist() == [1, 1, 0, 0]
    assert last["labels"].tolist() == [7, EOS, -100, -100]


def test_padding_with_eos_masks_no_real_eos():
    last = pack_documents(documents([5, 6, 7, EOS]), 4, pad_token_id=EOS)[1]
    assert last["labels"].tolist() == [7, EOS, -100, -100]


def test_no_sequence_is_made_of_the_overlapping_token_alone():
    packed = pack_documents(documents([5, 6, 7, 8, 9, EOS]), 4, PAD)
    assert [item["input_ids"].tolist() for item in packed] == [[EOS, 5, 6, 7], [7, 8, 9, EOS]]


def test_a_beginning_token_takes_the_place_of_the_separator():
    packed = pack_documents(documents([BOS, 5, EOS]), 8, PAD, marks=MARKS)
    assert predictions(packed) == [(BOS, 5), (5, EOS)]


def test_the_separator_may_be_given_where_the_first_document_was_cut():
    packed = pack_documents(documents([5, 6]), 8, PAD, marks=MARKS)
    assert predictions(packed) == [(EOS, 5), (5, 6)]


def marked(packed):
    """(document, predicted token, whether it is an end) of each prediction."""
    return [
        (document, token, is_end)
        for item in packed
        for document, token, is_end in zip(
            *(item[name][1:].tolist() for name in ("document_number", "labels", "is_document_end")),
            strict=True,
        )
        if token != -100
    ]


@pytest.mark.parametrize("sequence_length", [2, 3, 5, 8, 50])
def test_openings_are_not_predicted_and_ends_are_told_apart(sequence_length):
    packed = pack_documents(
        documents([BOS, 5, 6, 7, EOS], [BOS, 8, EOS], [BOS, 9]), sequence_length, PAD, marks=MARKS
    )
    assert marked(packed) == [
        *((0, 5, False), (0, 6, False), (0, 7, False), (0, EOS, True)),
        *((1, 8, False), (1, EOS, True)),
        (2, 9, False),
    ]


def test_one_token_may_both_open_and_close():
    marks = Marks(end=EOS)
    packed = pack_documents(documents([EOS, 5, EOS], [EOS, 6, EOS]), 4, PAD, marks=marks)
    assert packed.stream.tolist() == [EOS, 5, EOS, EOS, 6, EOS]
    assert marked(packed) == [(0, 5, False), (0, EOS, True), (1, 6, False), (1, EOS, True)]


def test_documents_are_told_apart_where_one_was_cut():
    packed = pack_documents(documents([5, 6], [7, EOS], [8, 9, EOS]), 4, PAD, marks=MARKS)
    assert marked(packed) == [
        *((0, 5, False), (0, 6, False), (1, 7, False), (1, EOS, True)),
        *((2, 8, False), (2, 9, False), (2, EOS, True)),
    ]


def test_without_marks_all_is_text():
    packed = pack_documents(documents([BOS, 5, EOS]), 8, PAD)
    assert [(token, is_end) for _, token, is_end in marked(packed)] == [
        *((BOS, False), (5, False), (EOS, False)),
    ]


def test_the_identity_follows_content_and_length_alone():
    one, two = [5, 6, EOS], [7, EOS]
    identity = pack_documents(documents(one, two), 4, PAD).identity
    content = b"4:" + struct.pack("<6q", EOS, 5, 6, EOS, 7, EOS)
    assert identity == hashlib.sha256(content).hexdigest()
    assert pack_documents(documents(one, two), 4, PAD).identity == identity
    assert pack_documents(documents(two, one), 4, PAD).identity != identity
    assert pack_documents(documents(one, two), 5, PAD).identity != identity
    assert pack_documents(documents(one, [8, EOS]), 4, PAD).identity != identity
    # Labels differ where some tokens open documents.
    assert pack_documents(documents(one, two), 4, PAD, marks=MARKS).identity != identity


def test_batches_of_a_data_loader():
    packed = pack_documents(documents(list(range(3, 30))), 5, PAD)
    batches = list(DataLoader(packed, batch_size=3))
    assert batches[0]["input_ids"].shape == (3, 5)
    is_end = batches[0].pop("is_document_end")
    assert is_end.dtype == torch.bool
    assert all(value.dtype == torch.int64 for value in batches[0].values())
    assert sum(len(batch["labels"]) for batch in batches) == len(packed)


def test_changing_an_item_does_not_change_the_next():
    packed = pack_documents(documents([5, 6, 7, EOS]), 3, PAD)
    item = packed[0]
    item["labels"][:] = -100
    assert item["input_ids"].tolist() == packed[0]["labels"].tolist() == [EOS, 5, 6]


def test_an_index_beyond_the_end_is_refused():
    packed = pack_documents(documents([5, EOS]), 4, PAD)
    with pytest.raises(IndexError, match="sequence 1 of 1"):
        packed[1]


def test_short_sequences_and_no_documents_are_refused():
    with pytest.raises(InputError, match="--sequence_length is 1"):
        pack_documents(documents([5, EOS]), 1, PAD)
    with pytest.raises(InputError, match="no documents"):
        pack_documents([], 4, PAD)
