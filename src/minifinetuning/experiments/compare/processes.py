"""Where a cell runs: in a process of its own, or in this one."""

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable
from typing import Any

from minifinetuning.environment import quieten_libraries
from minifinetuning.errors import InputError, TrainingDivergedError
from minifinetuning.experiments.compare.cell import Cell, Settings
from minifinetuning.experiments.compare.cell_run import run_cell

__all__ = ["Executor", "in_a_process", "in_this_process"]

logger = logging.getLogger(__name__)

Executor = Callable[[Cell, Settings], str | None]
"""Runs a cell to its result; returns the reason where that failed."""

# A process that has imported this once is forked for every cell: nothing is imported again, and
# nothing that one cell leaves in memory is counted with the next.
_PRELOADED = ["minifinetuning.experiments.compare.cell_run"]

_SECONDS_TO_END = 60


def in_this_process(cell: Cell, settings: Settings) -> str | None:
    """Run the cell here and now; returns why it failed, or None."""
    try:
        run_cell(cell, settings)
    except (InputError, TrainingDivergedError) as error:
        return str(error)
    except Exception as error:
        logger.exception("%s", cell.name)
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return None


def in_a_process(cell: Cell, settings: Settings) -> str | None:
    """Run the cell in a new process; returns why it failed, or None.

    What it holds in memory is its own, and its end is that of this process at the latest.
    """
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(_PRELOADED)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(cell, settings, sender), daemon=True)
    process.start()
    sender.close()
    try:
        reason: str | None = receiver.recv()
        process.join(timeout=_SECONDS_TO_END)
    except EOFError:
        process.join()
        reason = f"its process ended with exit code {process.exitcode}"
    finally:
        # Where this process is interrupted, the other is not left behind.
        process.terminate()
        process.join()
    return reason


def _child(cell: Cell, settings: Settings, sender: Any) -> None:
    """Sends why the cell failed, or None; ends with the process that asked for it."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    quieten_libraries()
    sender.send(in_this_process(cell, settings))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
