"""Examples to batches: what is learnt of them, with our collator and with another's."""

import pytest
import torch

from minifinetuning.data.batches import ForeignCollator, collate
from minifinetuning.data.sequences import REPLAY_COLUMN, REPLAYED_ROWS, normalized
from minifinetuning.errors import InputError


@pytest.mark.parametrize("column", ["completion_mask", "assistant_masks"])
def test_a_mask_of_what_is_to_be_learnt_becomes_labels(column):
    example = {"input_ids": [5, 6, 7, 8], column: [0, 0, 1, 1]}
    assert normalized(example)["labels"].tolist() == [-100, -100, 7, 8]
    batch = collate([example, {"input_ids": [1, 2, 3, 4, 5], column: [1, 1, 0, 1, 0]}])
    assert batch["labels"].tolist() == [[-100, -100, 7, 8, -100], [-100, 2, -100, 4, -100]]


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
    assert batch["labels"].tolist() == [[-100, 8], [-100, 6]]
    assert batch["input_ids"].tolist() == [[7, 8], [5, 6]]
    assert batch[REPLAYED_ROWS] == 1


def test_rows_that_the_teacher_was_not_asked_about_are_filled_with_zeros():
    asked = {"input_ids": [1, 2, 3], "teacher_hidden": torch.ones(2, 4), REPLAY_COLUMN: True}
    batch = collate([asked, {"input_ids": [4, 5, 6, 7]}])
    assert batch["teacher_hidden"].shape == (2, 3, 4)
    assert batch["teacher_hidden"].sum(2).tolist() == [[0, 0, 0], [4, 4, 0]]


def test_a_collator_without_labels_is_refused():
    with pytest.raises(InputError, match="batches without labels"):
        ForeignCollator(lambda examples: {"input_ids": torch.zeros(1, 2)})([{"input_ids": [1, 2]}])
