"""Ctrl-C: one line that says how to go on, exit code 130, and no traceback from any process."""

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from minifinetuning.cli import main, parsing, verbs
from minifinetuning.cli.verbs import how_to_go_on
from minifinetuning.training.checkpoints import write_manifest


def interrupted(*options):
    raise KeyboardInterrupt


@pytest.mark.parametrize("verb", verbs._VERBS)
def test_every_verb_ends_with_one_line_and_130(verb, monkeypatch, capsys, tmp_path):
    folder = SimpleNamespace(output_dir=str(tmp_path / "out"))
    monkeypatch.setattr(parsing, "parsed", lambda verb, words: (folder,))
    monkeypatch.setitem(verbs._VERBS, verb, interrupted)
    assert main([verb]) == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mft: interrupted: ")
    assert "the same command" in line


def test_an_interruption_before_the_options_are_read_is_no_traceback(monkeypatch, capsys):
    monkeypatch.setattr(parsing, "parsed", interrupted)
    assert main(["train"]) == 130
    assert "the same command starts again" in capsys.readouterr().err


def test_a_run_goes_on_from_its_last_checkpoint(tmp_path):
    options = (SimpleNamespace(model="m"), SimpleNamespace(output_dir=str(tmp_path / "out")))
    assert how_to_go_on("train", options) == "nothing is kept, the same command starts again"
    start, later = tmp_path / "out/checkpoint-0", tmp_path / "out/checkpoint-20"
    later.mkdir(parents=True)
    assert how_to_go_on("train", options).endswith("with --overwrite_output_dir starts again")
    start.mkdir()
    goes_on = "the same command with --resume_from_checkpoint True "
    assert how_to_go_on("train", options) == f"{goes_on}starts again"
    write_manifest(later, 20, {}, resumable=True)
    assert how_to_go_on("train", options) == f"{goes_on}goes on from {later}"
    write_manifest(later, 20, {}, resumable=False)
    assert "--overwrite_output_dir" in how_to_go_on("train", options)


def test_a_comparison_goes_on_with_the_same_command(tmp_path):
    options = (SimpleNamespace(output_dir=str(tmp_path)),)
    assert str(tmp_path) in how_to_go_on("compare", options)
    assert "cells that are not done" in how_to_go_on("compare", options)


def test_writing_goes_on_with_the_same_command():
    assert "what is missing of the text" in how_to_go_on("write", (SimpleNamespace(model="m"),))


WAITING = """
import os, sys
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
os.setsid()
# A terminal sends Ctrl-C to the process that forks as well: one of its own.
del forkserver._forkserver.ensure_running
from minifinetuning.cli import verbs
from minifinetuning.lab import processes
sys.path.insert(0, sys.argv[1])
from process_tasks import wait_with_a_child
processes._PRELOADED = []
task = partial(wait_with_a_child, Path(sys.argv[2]))
verbs._VERBS["demo"] = lambda options: list(processes.in_processes({"task": task}, id))
sys.exit(verbs.main(["demo"]))
"""


@pytest.mark.filterwarnings("default")
def test_ctrl_c_in_a_terminal_reaches_all_processes_and_none_shows_a_traceback(tmp_path, script):
    pids = tmp_path / "pids"
    running = script(WAITING, Path(__file__).parents[1] / "lab", pids)
    deadline = time.monotonic() + 60
    while not pids.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)
    ended = running.end(60)
    said = running.output
    assert ended == 130, said
    assert "Traceback" not in said
    assert said.count("mft: interrupted: ") == 1
