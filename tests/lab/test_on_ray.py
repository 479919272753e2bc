"""Tasks and cells on a Ray of two workers on this machine."""

import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from minifinetuning.errors import InputError
from minifinetuning.lab.compare import comparison_rows
from minifinetuning.lab.executors import RETRIES, on_ray
from minifinetuning.lab.paper.runs import reproduce
from minifinetuning.lab.processes import in_this_process

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def two_workers():
    """A Ray of two CPUs, to whose processes the functions of this file are sent whole."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
    yield
    ray.shutdown()


def write(path: Path) -> None:
    path.write_text(str(os.getpid()))


def refuse() -> None:
    raise InputError("--steps is missing: give it")


def break_down() -> None:
    raise RuntimeError("no memory\nis left")


def die_the_first_time(path: Path) -> None:
    """Its process is killed once, as on a machine that is lost."""
    attempts = len([*path.parent.glob(f"{path.name}.*")])
    path.with_name(f"{path.name}.{attempts}").touch()
    if attempts < 1:
        os._exit(1)
    path.touch()


def die_always(path: Path) -> None:
    path.with_name(f"{path.name}.{len([*path.parent.glob(f'{path.name}.*')])}").touch()
    os._exit(1)


def run(tasks):
    return dict(on_ray(tasks, begin=lambda name: None))


def test_each_task_has_a_process_of_its_own_and_failures_are_named(two_workers, tmp_path, caplog):
    caplog.set_level("INFO")
    reasons = run(
        {
            "one": partial(write, tmp_path / "one"),
            "two": partial(write, tmp_path / "two"),
            "refused": refuse,
            "broken": break_down,
        }
    )
    assert reasons == {
        "one": None,
        "two": None,
        "refused": "--steps is missing: give it",
        "broken": "RuntimeError: no memory is left",
    }
    processes = {(tmp_path / name).read_text() for name in ("one", "two")}
    assert len(processes) == 2
    assert str(os.getpid()) not in processes
    assert "4 of 4 done (2 failed), 0 running: none" in caplog.text


def test_a_lost_process_is_begun_again_some_times(two_workers, tmp_path):
    reasons = run(
        {
            "survives": partial(die_the_first_time, tmp_path / "survives"),
            "dies": partial(die_always, tmp_path / "dies"),
        }
    )
    assert reasons["survives"] is None
    assert (tmp_path / "survives").exists()
    assert len([*tmp_path.glob("dies.*")]) == 1 + RETRIES
    assert "WorkerCrashed" in reasons["dies"]


def test_cells_run_on_ray_as_they_do_here(two_workers, reproduction):
    here = reproduce(reproduction(table=3, method="MFT", folder="here"), in_this_process)
    there = reproduce(reproduction(table=3, method="MFT", folder="there"), on_ray)
    there.require_complete()
    ((cell, result),) = here.results.items()
    assert there.results[cell]["specialization"] == pytest.approx(result["specialization"])


def test_a_comparison_on_ray_has_the_rows_of_one_that_ran_here(
    two_workers, comparison, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    methods = "mft,lora@1e-2,lora+blend@1e-2"
    here, _ = comparison_rows(comparison(methods, folder="here"), executor=in_this_process)
    made = comparison(methods)
    # Beside it, as a person names it.
    made = replace(made, settings=replace(made.settings, folder=Path("there")))
    there, failed = comparison_rows(made, executor=on_ray)
    assert not failed
    assert list(there) == ["mft", "lora", "lora+blend"]
    for name, row in there.items():
        for figure in ("reference", "tuned", "specialization", "intervals", "history"):
            assert row[figure] == here[name][figure]
    assert len([*(tmp_path / "there/cells").iterdir()]) == 3
