"""Where cells run: here one after another, one a GPU of this machine, or on Ray (the extra `ray`).

Ray does the scheduling, the retries and the status of a cluster. All its machines must see the same
output folder and cache folder under the same paths.
"""

import logging
import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import torch

from minifinetuning.errors import InputError
from minifinetuning.lab.processes import Executor, Outcomes, Task, failure, in_processes

__all__ = ["executor_from", "on_ray", "one_a_gpu", "visible_gpus"]

logger = logging.getLogger(__name__)

RETRIES = 2
"""How often a task is begun again whose process or machine was lost."""

_STATUS_SECONDS = 30.0
_PASSED_ON = ("MINIFINETUNING_", "HF_", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM")
_GPUS = "CUDA_VISIBLE_DEVICES"


def executor_from(options: Any) -> Executor:
    """What a person asked for; `options` has the fields of `cli.options.ExecutorOptions`.

    Raises InputError, naming the option, for what cannot be.
    """
    gpus, cpus, address = options.gpus_per_cell, options.cpus_per_cell, options.ray_address
    if options.executor == "ray":
        _imported_ray()
        return partial(on_ray, gpus=gpus, cpus=1.0 if cpus is None else cpus, address=address)
    for name, value in (("cpus_per_cell", cpus), ("ray_address", address)):
        if value is not None:
            raise InputError(f"--{name} is for --executor ray: leave it out, or name that")
    return in_processes if gpus is None else one_a_gpu(gpus)


def one_a_gpu(gpus_per_cell: float = 1) -> Executor:
    """As many tasks at a time as this machine has GPUs for: each sees its own alone.

    A share such as 0.5 puts two on each. Raises InputError where there are too few GPUs.
    """
    names = visible_gpus()
    if not 0 < gpus_per_cell <= len(names):
        raise InputError(
            f"--gpus_per_cell {gpus_per_cell:g} cannot be had of the {len(names)} GPUs of this "
            "machine: leave it out, and one cell runs after another"
        )
    if gpus_per_cell < 1:
        groups = names * int(1 / gpus_per_cell)
    else:
        size = math.ceil(gpus_per_cell)
        starts = range(0, len(names) - size + 1, size)
        groups = [",".join(names[start : start + size]) for start in starts]
    return partial(in_processes, environments=[{_GPUS: group} for group in groups])


def visible_gpus() -> list[str]:
    """The GPUs of this process, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count()
    named = os.environ.get(_GPUS)
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def on_ray(
    tasks: Mapping[str, Task],
    begin: Callable[[str], None],
    *,
    gpus: float | None = None,
    cpus: float = 1.0,
    address: str | None = None,
) -> Outcomes:
    """Each task in a process of its own, wherever `gpus` and `cpus` are free.

    `gpus` is 1 where the cluster has any and nothing is said. `address` is that of a cluster; None
    is the one that this machine belongs to, or a new one of this machine alone. A task whose
    process or machine is lost is begun again. Raises InputError where Ray is not installed or
    cannot be reached.
    """
    ray = _connected(address)
    if gpus is None:
        gpus = 1.0 if ray.cluster_resources().get("GPU") else 0.0
    # A process of its own for each task: nothing that one leaves in memory burdens the next.
    remote = ray.remote(
        max_calls=1,
        max_retries=RETRIES,
        num_gpus=gpus,
        num_cpus=cpus,
        runtime_env={"env_vars": _environment()},
    )(_run)
    board = ray.remote(num_cpus=0)(_Board).remote()
    here = os.getcwd()
    waiting = {
        remote.options(name=name).remote(name, task, here, board): name
        for name, task in tasks.items()
    }
    begun: set[str] = set()
    failed = 0
    while waiting:
        ready, _ = ray.wait([*waiting], timeout=_STATUS_SECONDS)
        known = ray.get(board.started.remote())
        for name in known:
            if name not in begun:
                begin(name)
                begun.add(name)
        for reference in ready:
            name, reason = waiting.pop(reference), _reason(ray, reference)
            failed += reason is not None
            yield name, reason
        running = sorted(begun.intersection(waiting.values()))
        logger.info(
            "%d of %d done (%d failed), %d running: %s",
            len(tasks) - len(waiting),
            len(tasks),
            failed,
            len(running),
            "; ".join(running) or "none",
        )


class _Board:
    """Which tasks have begun, for the status line."""

    def __init__(self) -> None:
        self._names: list[str] = []

    def begin(self, name: str) -> None:
        self._names.append(name)

    def started(self) -> list[str]:
        return self._names


def _run(name: str, task: Task, folder: str, board: Any) -> str | None:
    from minifinetuning.environment import quieten_libraries

    quieten_libraries()
    # Where the command was given, so that relative paths are the same.
    with suppress(OSError):
        os.chdir(folder)
    board.begin.remote(name)
    return failure(task)


def _reason(ray: Any, reference: Any) -> str | None:
    try:
        reason: str | None = ray.get(reference)
    except ray.exceptions.RayError as error:
        # Its process or machine was lost more often than RETRIES, or the task cannot be read there.
        cause = getattr(error, "cause", None) or error
        return f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}"
    return reason


def _environment() -> dict[str, str]:
    """What a task reads of this environment: where caches are, and whether it may go online."""
    return {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}


def _imported_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise InputError(
            "--executor ray needs Ray: pip install 'minifinetuning[ray]', or leave the option out"
        ) from None
    return ray


def _connected(address: str | None) -> Any:
    ray = _imported_ray()
    if not ray.is_initialized():
        try:
            ray.init(
                address=address,
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(
                f"no Ray cluster can be reached at {address}: {' '.join(str(error).split())}"
            ) from error
    return ray
