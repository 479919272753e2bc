"""Examples to batches: what is learnt of them, and what is no sequence of tokens."""

import pytest
import torch

from minifinetuning.data.batches import REPLAY_COLUMN, ForeignCollator, collate, normalized
from minifinetuning.errors import InputError
from minifinetuning.teacher.contents import text_identity


@pytest.mark.parametrize("column", ["completion_mask", "assistant_masks"])
def test_a_mask_of_what_is_to_be_learnt_becomes_labels(column):
    example = {"input_ids": [5, 6, 7, 8], column: [0, 0, 1, 1]}
    assert normalized(example)["labels"].tolist() == [-100, -100, 7, 8]
    batch = collate([example, {"input_ids": [1, 2, 3, 4, 5], column: [1, 1, 0, 1, 0]}])
    assert batch["labels"].tolist() == [[-100, -100, 7, 8, -100], [-100, 2, -100, 4, -100]]


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


def test_another_collator_never_sees_our_columns():
    seen = []

    def theirs(examples):
        seen.extend(examples)
        tokens = torch.tensor([example["input_ids"] for example in examples])
        return {"input_ids": tokens, "labels": tokens}

    examples = [
        {"input_ids": [5, 6], "teacher_log_z": torch.zeros(1), REPLAY_COLUMN: True},
        {"input_ids": [7, 8], "teacher_log_z": torch.zeros(1)},
    ]
    batch = ForeignCollator(theirs)(examples)
    assert [set(example) for example in seen] == [{"input_ids"}] * 2
    assert batch["labels"].tolist() == [[-100, 6], [-100, 8]]
    assert batch["input_ids"].tolist() == [[5, 6], [7, 8]]
    assert batch[REPLAY_COLUMN] is False


def test_a_collator_without_labels_is_refused():
    with pytest.raises(InputError, match="batches without labels"):
        ForeignCollator(lambda examples: {"input_ids": torch.zeros(1, 2)})([{"input_ids": [1, 2]}])
