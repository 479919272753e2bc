"""Tasks in processes of their own, which leave nothing behind."""

import importlib
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

import minifinetuning
from minifinetuning.lab.processes import in_processes

pytestmark = pytest.mark.filterwarnings("default")

SECONDS = 60


@pytest.fixture
def tasks(monkeypatch, loaded_process):
    """What to run, where a new process finds it."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return importlib.import_module("process_tasks")


def reason_of(task):
    """Why the task failed in a process of its own, or None."""
    ((name, reason),) = in_processes({"task": task}, begin=lambda name: None)
    assert name == "task"
    return reason


def test_a_task_may_have_processes_of_its_own(tasks, tmp_path):
    assert reason_of(partial(tasks.read_by_a_worker, tmp_path / "read")) is None
    assert (tmp_path / "read").read_text() == "[0, 1, 2]"


def test_the_reason_of_a_failure_comes_back(tasks):
    assert reason_of(tasks.fail) == "--steps is missing: give it"


def test_a_task_that_is_killed_is_noticed_and_leaves_no_process(tasks, tmp_path):
    reason = reason_of(partial(tasks.be_killed_with_a_child, tmp_path / "pid"))
    assert reason == "its process ended with exit code -9"
    assert_gone([int((tmp_path / "pid").read_text())])


ASKING = """
import sys
from functools import partial
from pathlib import Path
from minifinetuning.lab import processes
sys.path.insert(0, sys.argv[1])
from process_tasks import wait_with_a_child
processes._PRELOADED = []
tasks = {name: partial(wait_with_a_child, Path(sys.argv[2] + name)) for name in "ab"}
list(processes.in_processes(tasks, print, environments=[{}, {}]))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_task_ends_with_the_process_that_asked_for_it(tmp_path, how):
    command = [sys.executable, "-c", ASKING, str(Path(__file__).parent), str(tmp_path / "pids")]
    source = str(Path(minifinetuning.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as asking:
        try:
            until(lambda: len(list(tmp_path.glob("pids?"))) == 2)
        except AssertionError:
            asking.kill()  # Its end is waited for.
            raise
        asking.send_signal(how)
    assert_gone([int(pid) for path in tmp_path.glob("pids?") for pid in path.read_text().split()])


def assert_gone(pids):
    until(lambda: not any(is_running(pid) for pid in pids))


def is_running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(happened):
    deadline = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)
