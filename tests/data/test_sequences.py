"""What an example must hold, and which texts a model cannot be trained on."""

import datasets
import numpy
import pytest
import torch

from minifinetuning.data.packing import PackedSequences
from minifinetuning.data.sequences import normalized, require_embeddings
from minifinetuning.errors import InputError
from minifinetuning.teacher.fingerprint import text_identity


def test_a_mask_and_labels_both_hold():
    example = {
        "input_ids": [5, 6, 7, 8],
        "labels": [5, 6, -100, 8],
        "completion_mask": [1, 1, 1, 0],
    }
    assert normalized(example)["labels"].tolist() == [-100, 6, -100, -100]


def test_a_mask_is_part_of_a_texts_identity():
    masks = [[0, 0, 1], [0, 1, 1]]
    texts = [[{"input_ids": [5, 6, 7], "completion_mask": mask}] for mask in masks]
    assert text_identity(texts[0]) != text_identity(texts[1])


def test_positions_that_only_count_are_fine():
    assert normalized({"input_ids": [5, 6, 7], "position_ids": [0, 1, 2], "seq_lengths": [3]})


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"position_ids": [0, 1, 0]}, "position_ids that do not count"),
        ({"seq_lengths": [2, 1]}, "seq_lengths says"),
    ],
)
def test_several_texts_in_one_sequence_are_refused(columns, words):
    with pytest.raises(InputError, match=words):
        normalized({"input_ids": [5, 6, 7], **columns})


@pytest.mark.parametrize(
    ("example", "words"),
    [
        (
            {"messages": [], "id": 1},
            r"columns messages, id and no input_ids: .*apply_chat_template",
        ),
        ({"text": "a"}, r"read_corpus.*tokenizer\(row\[\"text\"\]\)"),
        ({"question": "a"}, "columns question and no input_ids: tokenize it first"),
    ],
)
def test_what_is_not_tokenized_is_refused_with_the_way_to_do_it(example, words):
    with pytest.raises(InputError, match=words):
        normalized(example)


IDS = [3, 9, 5]


@pytest.mark.parametrize(
    "text",
    [
        PackedSequences(numpy.array(IDS, dtype=numpy.int32), 3, 0),
        [{"input_ids": [1]}, {"input_ids": IDS}, {"input_ids": []}],
        [{"input_ids": torch.tensor(IDS)}],
        [{"input_ids": numpy.array(IDS)}],
        datasets.Dataset.from_list([{"input_ids": IDS, "n": 99}, {"input_ids": []}]),
        datasets.Dataset.from_list([{"input_ids": [99]}, {"input_ids": IDS}]).select([1]),
    ],
)
def test_the_largest_id_is_found_in_every_kind_of_text(text):
    require_embeddings(text, 10, "the text")
    require_embeddings(text, None, "the text")
    with pytest.raises(InputError, match=r"the text needs the token id 9, .* embeddings for 9 tok"):
        require_embeddings(text, 9, "the text")


def test_nothing_is_asked_of_a_text_that_says_nothing_in_advance():
    streamed = datasets.Dataset.from_list([{"input_ids": IDS}]).to_iterable_dataset()
    for text in (streamed, iter([{"input_ids": IDS}]), None, []):
        require_embeddings(text, 9, "the text")
