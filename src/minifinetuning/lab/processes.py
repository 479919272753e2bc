"""Tasks on this machine: in this process, or each in one of its own, one or several at a time."""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any

from minifinetuning.environment import quieten_libraries
from minifinetuning.errors import InputError, TrainingDivergedError

__all__ = ["Executor", "Outcomes", "Task", "failure", "in_processes", "in_this_process"]

logger = logging.getLogger(__name__)

Task = Callable[[], Any]
"""What is run for what it writes; it can be pickled."""

Outcomes = Generator[tuple[str, str | None], None, None]
"""The name of each task as it ends, and the reason of its failure, or None."""

Executor = Callable[[Mapping[str, Task], Callable[[str], None]], Outcomes]
"""Runs tasks by their names for a person; the second argument is told of each that begins."""

# A process that has imported this once is forked for every task: nothing is imported again, and
# nothing that one task leaves in memory is counted with the next.
_PRELOADED = ["minifinetuning.lab.method_run"]

_SECONDS_TO_END, _SECONDS_TO_STOP = 60, 10
"""How long a process may take to end by itself, and when it is told to."""

ANYWHERE: tuple[dict[str, str], ...] = ({},)
"""One task at a time, which sees all that this process sees."""


def failure(task: Task) -> str | None:
    """Run the task here and now; returns why it failed, or None."""
    try:
        task()
    except (InputError, TrainingDivergedError) as error:
        return str(error)
    except Exception as error:
        logger.exception("%s", task)
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return None


def in_this_process(tasks: Mapping[str, Task], begin: Callable[[str], None]) -> Outcomes:
    """Each task after the one before it, here."""
    for name, task in tasks.items():
        begin(name)
        yield name, failure(task)


def in_processes(
    tasks: Mapping[str, Task],
    begin: Callable[[str], None],
    environments: Sequence[Mapping[str, str]] = ANYWHERE,
) -> Outcomes:
    """Each task in a new process, as many at a time as there are environments.

    An environment is what variables are set to for a task, such as the GPU that it sees. What a
    task holds in memory is its own. Its end, and that of all processes that it has started, is that
    of this process at the latest, however that ends.
    """
    waiting, free = [*tasks.items()], [*environments]
    running: list[_Child] = []
    try:
        while waiting or running:
            while waiting and free:
                name, task = waiting.pop(0)
                begin(name)
                running.append(_Child(name, task, free.pop(0)))
                running[-1].start()
            # Its children hold the pipe open too: its own end is what counts.
            wait([end for child in running for end in (child.receiver, child.process.sentinel)])
            for child in [child for child in running if child.has_ended]:
                reason = child.reason()
                running.remove(child)
                free.append(child.environment)
                yield child.name, reason
    finally:
        # Where this process is interrupted, the others are not left behind.
        for child in running:
            child.end()


class _Child:
    """A process that runs one task."""

    def __init__(self, name: str, task: Task, environment: Mapping[str, str]) -> None:
        self.name, self.environment = name, environment
        methods = multiprocessing.get_all_start_methods()
        method = "forkserver" if "forkserver" in methods else "spawn"
        context: Any = multiprocessing.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload(_PRELOADED)
        self.receiver, self._sender = context.Pipe(duplex=False)
        # A daemon may have no children, and a DataLoader has some.
        self.process: Any = context.Process(
            target=_run, args=(task, environment, self._sender), daemon=False
        )

    def start(self) -> None:
        self.process.start()
        self._sender.close()

    @property
    def has_ended(self) -> bool:
        """Whether it has said how its task went, or cannot any more."""
        return self.process.exitcode is not None or bool(self.receiver.poll())

    def reason(self) -> str | None:
        """Why its task failed, or None; waits for the end of the process."""
        with suppress(EOFError):
            if self.receiver.poll():
                reason: str | None = self.receiver.recv()
                self.process.join(timeout=_SECONDS_TO_END)
                self.end()
                return reason
        self.process.join()
        self.end()
        return f"its process ended with exit code {self.process.exitcode}"

    def end(self) -> None:
        """End the process, if it has not ended well, and what it has started."""
        if self.process.pid is None:
            return
        self.process.terminate()
        self.process.join(timeout=_SECONDS_TO_STOP)
        if self.process.exitcode is None:
            self.process.kill()
        if self.process.exitcode != 0:
            # One that ends well has ended its children.
            _kill_group(self.process.pid)
        self.process.join()


def _run(task: Task, environment: Mapping[str, str], sender: Any) -> None:
    """Sends why the task failed, or None; ends with the process that asked for it."""
    if hasattr(os, "setpgid"):
        # A group of its own: it ends as one, and Ctrl-C is for the process that asked alone.
        os.setpgid(0, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.update(environment)
    quieten_libraries()
    sender.send(failure(task))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        _kill_group(os.getpid())
        os._exit(1)


def _kill_group(leader: int) -> None:
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL)
