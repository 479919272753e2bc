"""What a process at the command line sets up for itself before its work."""

import os
import sys

__all__ = ["print_any_name", "quieten_libraries", "use_machine_well"]


def use_machine_well() -> None:
    """Before torch is imported: large pages, and a thread for each physical core."""
    # A chunk of logits is hundreds of megabytes: in small pages its first use is mostly faults.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    import psutil

    # Two threads of one core share its arithmetic units, and only wait for each other there.
    cores = psutil.cpu_count(logical=False)
    if cores is not None:
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
        os.environ.setdefault("OMP_NUM_THREADS", str(min(cores, allowed)))


def print_any_name() -> None:
    """A file's name may hold what a terminal cannot show: no result is lost for that."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def quieten_libraries() -> None:
    """Their warnings are for programmers; a person at the command line gets ours."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    import logging
    import warnings

    import datasets
    import transformers

    logging.getLogger("transformers").setLevel(logging.ERROR)
    logging.getLogger("datasets").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("minifinetuning").setLevel(logging.INFO)
