"""Where cells run: what is asked for, and which GPU each task sees."""

import importlib
import sys
from functools import partial
from pathlib import Path

import pytest

from minifinetuning.cli.options import ExecutorOptions
from minifinetuning.errors import InputError
from minifinetuning.lab import executors
from minifinetuning.lab.executors import executor_from, on_ray, one_a_gpu, visible_gpus
from minifinetuning.lab.processes import in_processes

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def gpus(monkeypatch):
    """`gpus("0", "1")`: those that this machine has."""
    return lambda *names: monkeypatch.setattr(executors, "visible_gpus", lambda: [*names])


@pytest.fixture
def tasks(monkeypatch, loaded_process):
    """What to run, where a new process finds it."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return importlib.import_module("process_tasks")


def test_each_task_sees_a_gpu_of_its_own_and_as_many_run_as_there_are_gpus(gpus, tasks, tmp_path):
    gpus("2", "5")
    begun = []
    # Each of the first two waits for the other to begin; the third waits for a GPU.
    work = {
        name: partial(tasks.meet, tmp_path, name, others)
        for name, others in {"a": ["b"], "b": ["a"], "c": []}.items()
    }
    ended = dict(executor_from(ExecutorOptions(gpus_per_cell=1))(work, begun.append))
    assert ended == dict.fromkeys("abc")
    assert begun == ["a", "b", "c"]
    seen = {name: (tmp_path / name).read_text() for name in "abc"}
    assert {seen["a"], seen["b"]} == {"2", "5"}
    assert seen["c"] in {"2", "5"}


@pytest.mark.parametrize(
    ("names", "gpus_per_cell", "groups"),
    [
        ("0 1 2", 1, ["0", "1", "2"]),
        ("0 1 2", 2, ["0,1"]),
        ("GPU-a GPU-b GPU-c GPU-d", 2, ["GPU-a,GPU-b", "GPU-c,GPU-d"]),
        ("0 1", 0.5, ["0", "1", "0", "1"]),
    ],
)
def test_gpus_are_shared_out(gpus, names, gpus_per_cell, groups):
    gpus(*names.split())
    given = one_a_gpu(gpus_per_cell).keywords["environments"]
    assert given == [{"CUDA_VISIBLE_DEVICES": group} for group in groups]


@pytest.mark.parametrize(("has", "asked"), [((), 1), (("0",), 2), (("0",), 0)])
def test_gpus_that_are_not_there_are_not_given(gpus, has, asked):
    gpus(*has)
    said = f"--gpus_per_cell {asked} cannot be had of the {len(has)} GPUs of this machine"
    with pytest.raises(InputError, match=said):
        executor_from(ExecutorOptions(gpus_per_cell=asked))


def test_the_gpus_of_a_process_are_those_that_it_sees(monkeypatch):
    monkeypatch.setattr(executors.torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-b")
    assert visible_gpus() == ["3", "GPU-b"]


def test_without_a_word_cells_run_one_after_another():
    assert executor_from(ExecutorOptions()) is in_processes


@pytest.mark.parametrize("name", ["cpus_per_cell", "ray_address"])
def test_options_of_ray_are_refused_without_it(name):
    with pytest.raises(InputError, match=f"--{name} is for --executor ray"):
        executor_from(ExecutorOptions(**{name: 0}))


def test_ray_is_asked_for_what_was_said():
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    given = executor_from(ExecutorOptions(executor="ray", gpus_per_cell=0.5, ray_address="auto"))
    assert given.func is on_ray
    assert given.keywords == {"gpus": 0.5, "cpus": 1.0, "address": "auto"}


def test_without_ray_it_is_said_before_anything_is_read(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"needs Ray: pip install 'minifinetuning\[ray\]'"):
        executor_from(ExecutorOptions(executor="ray"))


def test_an_executor_that_is_not_known_is_named():
    with pytest.raises(InputError, match="--executor cloud is not known"):
        ExecutorOptions(executor="cloud")
