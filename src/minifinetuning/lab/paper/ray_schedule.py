"""Tasks spread over the GPUs and machines of a Ray cluster (the extra `ray`).

All machines must see the same output folder and cache folder under the same paths.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

from minifinetuning.errors import InputError
from minifinetuning.lab.processes import Schedule, Task, in_this_process

__all__ = ["on_ray"]

logger = logging.getLogger(__name__)

RETRIES = 2
"""How often a task is begun again whose process or machine was lost."""

_STATUS_SECONDS = 30.0
_PASSED_ON = ("MINIFINETUNING_", "HF_", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM")


def on_ray(*, gpus: float | None = None, cpus: float = 1.0, address: str | None = None) -> Schedule:
    """Each task in a process of its own, wherever `gpus` and `cpus` are free.

    `gpus` is 1 where the cluster has any and nothing is said. `address` is that of a cluster; None
    is the one that this machine belongs to, or a new one of this machine alone. What a task could
    not do is its reason of failure; a task whose process or machine is lost is begun again.
    Raises InputError where Ray is not installed or cannot be reached.
    """

    def schedule(tasks: Mapping[str, Task]) -> Iterator[tuple[str, str | None]]:
        ray = _connected(address)
        needed = gpus
        if needed is None:
            needed = 1.0 if ray.cluster_resources().get("GPU") else 0.0
        # A process of its own for each task: nothing that one leaves in memory burdens the next.
        run = ray.remote(
            max_calls=1,
            max_retries=RETRIES,
            num_gpus=needed,
            num_cpus=cpus,
            runtime_env={"env_vars": _environment()},
        )(_run)
        board = ray.remote(num_cpus=0)(_Board).remote()
        waiting = {run.remote(name, task, board): name for name, task in tasks.items()}
        done = failed = 0
        while waiting:
            ready, _ = ray.wait([*waiting], timeout=_STATUS_SECONDS)
            for reference in ready:
                name, reason = waiting.pop(reference), _reason(ray, reference)
                done, failed = done + 1, failed + (reason is not None)
                yield name, reason
            running = sorted(set(waiting.values()) & set(ray.get(board.started.remote())))
            logger.info(
                "%d of %d done (%d failed), %d running: %s",
                *(done, len(tasks), failed, len(running), "; ".join(running) or "none"),
            )

    return schedule


class _Board:
    """Which tasks have begun, for the status line."""

    def __init__(self) -> None:
        self._names: list[str] = []

    def begin(self, name: str) -> None:
        self._names.append(name)

    def started(self) -> list[str]:
        return self._names


def _run(name: str, task: Task, board: Any) -> str | None:
    from minifinetuning.environment import quieten_libraries

    quieten_libraries()
    board.begin.remote(name)
    return in_this_process(task)


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


def _connected(address: str | None) -> Any:
    try:
        import ray
    except ImportError:
        raise InputError(
            "--executor ray needs Ray: pip install 'minifinetuning[ray]', or leave the option out"
        ) from None
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
