import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from minifinetuning.errors import InputError
from minifinetuning.files import (
    cache_folder,
    claimed,
    locked,
    printable,
    read_json,
    replacing,
    write_atomically,
)


def test_the_cache_is_the_own_folder_or_the_users(monkeypatch, tmp_path):
    for name in ("MINIFINETUNING_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "minifinetuning"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "minifinetuning"
    monkeypatch.setenv("MINIFINETUNING_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_a_file_is_the_old_one_until_the_block_ends(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        assert temporary.parent == tmp_path
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_exception_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_whole_and_the_folders_above_are_made(tmp_path):
    folder = tmp_path / "above" / "folder"
    with replacing(folder) as temporary:
        temporary.mkdir()
        (temporary / "a").write_text("1")
        assert not folder.exists()
    assert (folder / "a").read_text() == "1"


def test_an_exception_leaves_nothing_of_a_folder(tmp_path):
    def interrupted():
        with replacing(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / "a").write_text("1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_two_writers_do_not_meet(tmp_path):
    path = tmp_path / "a"
    with replacing(path) as one, replacing(path) as other:
        one.write_text("1")
        other.write_text("2")
    assert path.read_text() == "1"


def test_text_and_json_end_in_one_line_feed(tmp_path):
    write_atomically(tmp_path / "new" / "a.md", "é")
    assert (tmp_path / "new" / "a.md").read_bytes() == "é\n".encode()
    write_atomically(tmp_path / "a.md", "b\n")
    assert (tmp_path / "a.md").read_text() == "b\n"
    write_atomically(tmp_path / "a.json", {"a": [1, None]})
    assert read_json(tmp_path / "a.json") == {"a": [1, None]}


@pytest.mark.parametrize("content", [b"{", b"\xff", b""])
def test_what_is_no_json_reads_as_none(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    for path in (tmp_path / "a.json", tmp_path / "b.json", tmp_path):
        assert read_json(path) is None


def other_process(code, *arguments):
    """Run code in a process of its own that has said "ready"."""
    child = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "ready\n"
    return child


HOLDS = """
import sys
from pathlib import Path
from minifinetuning.files import locked
with locked(Path(sys.argv[1])):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_one_runs_alone_until_that_ends_or_is_killed(tmp_path):
    child = other_process(HOLDS, tmp_path)
    try:
        said = f"another run is writing to {tmp_path}: "
        with pytest.raises(InputError, match=said), locked(tmp_path):
            pass
    finally:
        child.kill()
        child.communicate()
    assert (tmp_path / ".lock").exists()
    with locked(tmp_path), locked(tmp_path):
        assert (tmp_path / ".lock").exists()
    assert not list(tmp_path.iterdir())


def test_another_thread_is_another_run(tmp_path):
    def claim():
        with claimed(tmp_path / "cell") as mine:
            return mine

    with claimed(tmp_path / "cell") as mine, ThreadPoolExecutor() as threads:
        assert mine
        assert not threads.submit(claim).result()
    with claimed(tmp_path / "cell") as mine:
        assert mine
    assert not list(tmp_path.iterdir())


def test_no_result_is_lost_for_a_number_that_json_cannot_hold(tmp_path):
    path = tmp_path / "metrics.json"
    content = {"a": math.inf, "b": [1.0, (math.nan, 2)], "c": 10**5000, "d": Path("x"), "e": -1.0}
    write_atomically(path, content)
    found = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert found == {"a": None, "b": [1.0, [None, 2]], "c": hex(10**5000), "d": "x", "e": -1.0}


def test_no_result_is_lost_for_a_name_that_is_no_utf_8(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    assert printable(name) == "caf\ufffd"
    assert printable(tmp_path / "café") == str(tmp_path / "café")
    write_atomically(tmp_path / "a.json", {"model": name, name: [name]})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {
        "model": "caf?",
        "caf?": ["caf?"],
    }
    write_atomically(tmp_path / "a.md", f"# {name}")
    assert (tmp_path / "a.md").read_text("utf-8") == "# caf?\n"
