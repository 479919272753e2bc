"""All teachers' caches together: a limit, who makes room, and what is in use."""

import gc
import json
import os
import signal
import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from minifinetuning.cli import main
from minifinetuning.teacher import open_cache, plan_cache, upkeep
from minifinetuning.teacher.live import starting_teacher
from minifinetuning.teacher.upkeep import kept_teachers, limit, prune, room, teachers_folder


@pytest.fixture
def model(tiny_model):
    return tiny_model("llama")


@pytest.fixture
def opened(model, random_sequences):
    """`opened(seed)`: the cache of another text, open; the sizes of all are the same."""

    def make(seed, requested="hidden"):
        texts = {"train": random_sequences(4, seed=seed)}
        plan = plan_cache(requested, model, texts, passes=3.0, autocast=nullcontext)
        if not plan.stores:
            return None
        return open_cache(plan, starting_teacher(model), texts, batch_size=2, autocast=nullcontext)

    return make


@pytest.fixture
def filled(opened):
    """`filled(seed)`: the folder of the cache of a text, which nobody uses any more."""

    def make(seed, age=0):
        folder = opened(seed).texts["train"].store.folder
        gc.collect()
        manifest = folder / "cache.json"
        then = manifest.stat().st_mtime - age
        os.utime(manifest, (then, then))
        return folder

    return make


def names():
    return {kept.folder for kept in kept_teachers()}


def test_those_used_longest_ago_make_room(filled, opened, monkeypatch):
    oldest, old, new = filled(1, age=30), filled(2, age=20), filled(3, age=10)
    (size,) = {kept.bytes for kept in kept_teachers()}
    monkeypatch.setattr(upkeep, "LIMIT", 3 * size + 100)
    assert names() == {oldest, old, new}
    # It is used now, and so not long ago.
    filled(1)
    last = filled(4)
    assert names() == {oldest, new, last}
    assert not list(teachers_folder().glob(".removed-*"))


def test_what_is_in_use_is_neither_removed_for_room_nor_pruned(filled, opened, monkeypatch):
    used = opened(1)
    folder = used.texts["train"].store.folder
    unused = filled(2)
    (size,) = {kept.bytes for kept in kept_teachers()}
    monkeypatch.setattr(upkeep, "LIMIT", size + 100)
    # One that was asked for is made where the disk has room, an automatic one is not.
    last = filled(3)
    assert names() == {folder, last}
    assert opened(4, "auto") is None
    assert [kept.folder for kept in prune()] == [last]
    assert names() == {folder}
    used.texts["train"][0]
    del used
    gc.collect()
    assert [kept.folder for kept in prune()] == [folder]
    assert unused not in names()


def test_all_caches_together_take_half_of_what_would_be_free(filled, monkeypatch):
    filled(1)
    (kept,) = kept_teachers()
    usage = SimpleNamespace(free=3 * kept.bytes)
    monkeypatch.setattr(upkeep.shutil, "disk_usage", lambda path: usage)
    assert limit() == 2 * kept.bytes
    assert room([]) == 2 * kept.bytes
    monkeypatch.setattr(upkeep, "LIMIT", 7)
    assert limit() == 7


HOLDER = """
import signal, sys
from pathlib import Path
from types import SimpleNamespace
from minifinetuning.teacher import upkeep

class Store(SimpleNamespace):
    pass

store = Store(folder=Path(sys.argv[1]))
upkeep.hold([store])
print("held", flush=True)
signal.pause()
"""


def test_another_process_keeps_what_it_uses_until_it_dies(filled, script):
    folder = filled(1)
    other = script(HOLDER, folder)
    while other.output != "held\n":
        assert other.is_running(), other.output
        time.sleep(0.02)
    assert prune() == []
    other.send_signal(signal.SIGKILL)
    other.end()
    assert [kept.folder for kept in prune()] == [folder]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_worker_that_ends_does_not_let_go(opened):
    cache = opened(1)
    child = os.fork()
    if not child:
        try:
            del cache
            gc.collect()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert prune() == []


def test_a_folder_of_ones_own_is_not_counted_and_not_removed(opened, filled, tmp_path, monkeypatch):
    other = filled(1)
    monkeypatch.setattr(upkeep, "LIMIT", 1)
    own = opened(2, str(tmp_path / "own")).texts["train"].store.folder
    assert names() == {other}
    gc.collect()
    prune()
    assert (own / "cache.json").exists()
    assert not list(own.glob(".use-*"))


def test_a_person_sees_and_prunes_the_caches(filled, opened, capsys):
    assert main(["cache", "--list"]) == 0
    assert "no teacher's cache lies in" in capsys.readouterr().out
    filled(1)
    used = opened(2)
    assert main(["cache", "--list"]) == 0
    listed = capsys.readouterr().out
    for kept in kept_teachers():
        assert f"| {kept.folder.name} | hidden |" in listed
    assert listed.count(" yes |") == 1
    assert "of " in listed.splitlines()[-1]
    assert main(["cache", "--prune"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("removed 1 caches, ")
    assert "1 in use are left" in said
    assert json.loads((used.texts["train"].store.folder / "cache.json").read_text())
    assert main(["cache", "--list", "--model", "m", "--data", "d"]) == 2
    assert "--list stands alone: mft cache --list" in capsys.readouterr().err
