"""A tiny teacher and a store of a few small parts."""

from contextlib import nullcontext

import pytest
import torch

from minifinetuning.cache import contents as contents_module
from minifinetuning.cache.contents import Contents
from minifinetuning.cache.fingerprint import Fingerprint, text_identity
from minifinetuning.cache.kinds import columns
from minifinetuning.cache.store import TeacherStore


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of two sequences of 15 predictions by 32 float32 states."""
    monkeypatch.setattr(contents_module, "PART_BYTES", 2 * 15 * 32 * 4 + 600)


@pytest.fixture
def store_of(tmp_path):
    """`store_of(sequences, kind)`: an empty store for a model of width 32 in float32."""

    def make(sequences, kind="hidden", weights="w", folder=tmp_path / "store"):
        identity = text_identity(sequences)
        fingerprint = Fingerprint(kind, identity.digest, weights, "float32", "float32 weights")
        described = columns(kind, 32, torch.float32)
        return TeacherStore(folder, Contents(fingerprint, described, identity.predictions))

    return make


@pytest.fixture
def no_autocast():
    return nullcontext
