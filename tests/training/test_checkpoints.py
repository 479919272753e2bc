"""Checkpoints alone: manifests of files made by hand, and which of several is taken."""

import gzip
import json
import logging

import pytest

from minifinetuning.errors import InputError
from minifinetuning.training.checkpoints import (
    MANIFEST,
    flaw,
    last_complete_checkpoint,
    manifest_of,
    write_manifest,
)
from minifinetuning.training.resuming import asked_checkpoint, checkpoint_to_resume

FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "inner/part-0.bin")


@pytest.fixture
def checkpoint(tmp_path):
    """`checkpoint(step)`: a whole one; `best` is the name of the best one when it was written."""

    def make(step, best=None, resumable=True):
        folder = tmp_path / f"checkpoint-{step}"
        for name in FILES:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(f"{step} {name}".encode() * 20)
        state = {"global_step": step, "best_model_checkpoint": best and f"/moved/since/{best}"}
        (folder / "trainer_state.json").write_text(json.dumps(state))
        write_manifest(folder, step, {"settings": {}}, resumable=resumable)
        return folder

    return make


def test_a_manifest_names_every_file_with_its_size_and_checksum(checkpoint):
    folder = checkpoint(4)
    manifest = manifest_of(folder)
    assert set(manifest["files"]) == {*FILES, "trainer_state.json"}
    # What gzip, cksum and zip write of the same content.
    content = b"4 optimizer.pt" * 20
    checksum = int.from_bytes(gzip.compress(content)[-8:-4], "little")
    assert manifest["files"]["optimizer.pt"] == [len(content), checksum]
    assert (manifest["step"], manifest["resumable"]) == (4, True)
    assert flaw(folder) is None


def spoil_manifest(folder):
    (folder / MANIFEST).write_text('{"format": 1, "step"')


def remove_manifest(folder):
    (folder / MANIFEST).unlink()


def remove_optimizer(folder):
    (folder / "optimizer.pt").unlink()


def remove_scheduler(folder):
    (folder / "scheduler.pt").unlink()


def cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


def change_a_byte(folder):
    path = folder / "inner" / "part-0.bin"
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)


DAMAGE = [
    (spoil_manifest, "it has no checkpoint.json that can be read"),
    (remove_manifest, "it has no checkpoint.json that can be read"),
    (remove_optimizer, "its optimizer.pt is missing"),
    (remove_scheduler, "its scheduler.pt is missing"),
    (cut_weights, "its model.safetensors has 393 bytes and should have 400"),
    (change_a_byte, "its inner/part-0.bin is damaged (another checksum)"),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGE)
def test_what_is_wrong_is_said_and_the_newest_whole_one_is_taken(
    checkpoint, tmp_path, caplog, damage, said
):
    for step in (2, 4, 10):
        checkpoint(step)
    damage(tmp_path / "checkpoint-10")
    assert flaw(tmp_path / "checkpoint-10").startswith(said)
    with caplog.at_level(logging.WARNING):
        assert checkpoint_to_resume(True, tmp_path) == tmp_path / "checkpoint-4"
    assert [record.getMessage() for record in caplog.records] == [
        f"checkpoint-10 is passed over: {flaw(tmp_path / 'checkpoint-10')}"
    ]
    with pytest.raises(InputError, match=r"--resume_from_checkpoint .*checkpoint-10: it") as caught:
        checkpoint_to_resume(str(tmp_path / "checkpoint-10"), tmp_path)
    assert said in str(caught.value)


def test_a_checkpoint_without_its_best_is_not_whole(checkpoint, tmp_path):
    checkpoint(2, best="checkpoint-2")
    checkpoint(4, best="checkpoint-4")
    checkpoint(6, best="checkpoint-4")
    assert checkpoint_to_resume(True, tmp_path) == tmp_path / "checkpoint-6"
    remove_optimizer(tmp_path / "checkpoint-4")
    assert "checkpoint-4, the best until then, is not whole: its optimizer.pt is missing" in flaw(
        tmp_path / "checkpoint-6"
    )
    assert checkpoint_to_resume(True, tmp_path) == tmp_path / "checkpoint-2"


def test_where_only_the_start_was_saved_training_begins_anew(checkpoint, tmp_path, caplog):
    checkpoint(0, resumable=False)
    with caplog.at_level(logging.WARNING):
        assert checkpoint_to_resume(True, tmp_path) is None
    assert "training begins anew" in caplog.text
    half = tmp_path / "checkpoint-2"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half of the weights")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert checkpoint_to_resume(True, tmp_path) is None
    assert "checkpoint-2 is passed over: it has no checkpoint.json" in caplog.text
    assert checkpoint_to_resume(str(tmp_path / "checkpoint-0"), tmp_path) is None


def test_without_an_optimizer_there_is_nothing_to_go_on_with(checkpoint, tmp_path):
    checkpoint(0, resumable=False)
    checkpoint(4, resumable=False)
    for asked in (True, str(tmp_path / "checkpoint-4")):
        with pytest.raises(InputError, match="written with --save_only_model") as caught:
            checkpoint_to_resume(asked, tmp_path)
        assert "\n" not in str(caught.value)
    checkpoint(2)
    assert checkpoint_to_resume(True, tmp_path) == tmp_path / "checkpoint-2"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere", "there is no such folder"),
        ("", "name .*checkpoint-4, say"),
        ("other", "no chec"),
    ],
)
def test_a_folder_that_is_no_checkpoint_is_refused(checkpoint, tmp_path, name, said):
    checkpoint(4)
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match=said):
        checkpoint_to_resume(str(tmp_path / name), tmp_path)


def test_a_folder_without_any_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no whole checkpoint to resume from: leave"):
        checkpoint_to_resume(True, tmp_path)


def test_the_last_complete_checkpoint_is_the_highest_whole_one_after_the_start(
    checkpoint, tmp_path
):
    assert last_complete_checkpoint(tmp_path / "missing") is None
    checkpoint(0)
    assert last_complete_checkpoint(tmp_path) is None
    for step in (9, 10, 11):
        checkpoint(step)
    cut_weights(tmp_path / "checkpoint-11")
    (tmp_path / "checkpoint-12").mkdir()
    (tmp_path / "checkpoint-x").mkdir()
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


@pytest.mark.parametrize(
    ("value", "asked"),
    [(None, False), (False, False), ("False", False), (True, True), ("true", True), ("a/b", "a/b")],
)
def test_what_is_asked_for(value, asked):
    assert asked_checkpoint(value) == asked
