"""Sizes are known before anything is computed."""

import pytest
import torch

from minifinetuning.teacher import fingerprint as contents_module
from minifinetuning.teacher.columns import columns
from minifinetuning.teacher.fingerprint import Contents, Fingerprint, format_bytes

FINGERPRINT = Fingerprint("hidden", "text", "weights", "bfloat16", "bfloat16 weights")


@pytest.mark.parametrize(("kind", "row_bytes"), [("hidden", 2 * 576), ("expected", 2 * 576 + 16)])
def test_bytes_are_tokens_times_the_columns(kind, row_bytes):
    contents = Contents(FINGERPRINT, columns(kind, 576, torch.bfloat16), (1023, 1023, 100))
    assert contents.row_bytes == row_bytes
    assert contents.bytes == (1023 + 1023 + 100) * row_bytes


def test_parts_are_consecutive_and_never_larger_than_said_unless_one_sequence_is(monkeypatch):
    monkeypatch.setattr(contents_module, "PART_BYTES", 100 * 8)
    predictions = (40, 60, 1, 99, 250, 10, 10)
    parts = Contents(FINGERPRINT, columns("hidden", 4, torch.bfloat16), predictions).parts()
    assert parts == [range(0, 2), range(2, 4), range(4, 5), range(5, 7)]


def test_a_cache_has_about_a_hundred_parts_of_a_mebibyte_or_more():
    def parts(sequences):
        return len(Contents(FINGERPRINT, columns("hidden", 512, torch.bfloat16), sequences).parts())

    assert parts((100,) * 10) == 1
    assert parts((1024,) * 40) == 40
    assert 99 <= parts((1024,) * 5000) <= 103
    assert parts((1024,) * 6400 * 2) == 6400 * 2 // 64


def test_a_text_without_sequences_has_no_parts():
    assert Contents(FINGERPRINT, columns("hidden", 4, torch.bfloat16), ()).parts() == []


@pytest.mark.parametrize(
    ("count", "said"), [(12, "12 bytes"), (4_700_000_000, "4.7 GB"), (999_900, "999.9 kB")]
)
def test_bytes_are_said_as_a_person_says_them(count, said):
    assert format_bytes(count) == said
