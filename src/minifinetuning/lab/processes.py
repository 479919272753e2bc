"""Tasks one after another, each in a process of its own or in this one."""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any

from minifinetuning.environment import quieten_libraries
from minifinetuning.errors import InputError, TrainingDivergedError

__all__ = ["Executor", "Schedule", "Task", "in_a_process", "in_this_process", "one_by_one"]

logger = logging.getLogger(__name__)

Task = Callable[[], Any]
"""What is run for what it writes; it can be pickled."""

Executor = Callable[[Task], str | None]
"""Runs a task to its end; returns the reason where that failed."""

Schedule = Callable[[Mapping[str, Task]], Iterator[tuple[str, str | None]]]
"""Runs tasks, each with a name for a person; gives a name and the reason of its failure, or None,
as each ends."""


# A process that has imported this once is forked for every task: nothing is imported again, and
# nothing that one task leaves in memory is counted with the next.
_PRELOADED = ["minifinetuning.lab.compare.cell_run"]

_SECONDS_TO_END, _SECONDS_TO_STOP = 60, 10
"""How long a process may take to end by itself, and when it is told to."""


def in_this_process(task: Task) -> str | None:
    """Run the task here and now; returns why it failed, or None."""
    try:
        task()
    except (InputError, TrainingDivergedError) as error:
        return str(error)
    except Exception as error:
        logger.exception("%s", task)
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return None


def in_a_process(task: Task) -> str | None:
    """Run the task in a new process; returns why it failed, or None.

    What it holds in memory is its own. Its end, and that of all processes that it has started, is
    that of this process at the latest, however that ends.
    """
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(_PRELOADED)
    receiver, sender = context.Pipe(duplex=False)
    # A daemon may have no children, and a DataLoader has some.
    process = context.Process(target=_child, args=(task, sender), daemon=False)
    try:
        process.start()
        sender.close()
        # Its children hold the pipe open too: its own end is what counts.
        wait([receiver, process.sentinel])
        if receiver.poll():
            reason: str | None = receiver.recv()
            process.join(timeout=_SECONDS_TO_END)
        else:
            process.join()
            reason = f"its process ended with exit code {process.exitcode}"
    except EOFError:
        process.join()
        reason = f"its process ended with exit code {process.exitcode}"
    finally:
        # Where this process is interrupted, the other is not left behind.
        _end(process)
    return reason


def one_by_one(executor: Executor = in_a_process) -> Schedule:
    """Each task after the one before it, here."""

    def schedule(tasks: Mapping[str, Task]) -> Iterator[tuple[str, str | None]]:
        for number, (name, task) in enumerate(tasks.items(), start=1):
            logger.info("[%d/%d] %s", number, len(tasks), name)
            yield name, executor(task)

    return schedule


def _child(task: Task, sender: Any) -> None:
    """Sends why the task failed, or None; ends with the process that asked for it."""
    if hasattr(os, "setpgid"):
        # A group of its own: it ends as one, and Ctrl-C is for the process that asked alone.
        os.setpgid(0, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    quieten_libraries()
    sender.send(in_this_process(task))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        _kill_group(os.getpid())
        os._exit(1)


def _end(process: Any) -> None:
    """End the process, if it has not ended well, and what it has started."""
    if process.pid is None:
        return
    process.terminate()
    process.join(timeout=_SECONDS_TO_STOP)
    if process.exitcode is None:
        process.kill()
    if process.exitcode != 0:
        # One that ends well has ended its children.
        _kill_group(process.pid)
    process.join()


def _kill_group(leader: int) -> None:
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL)
