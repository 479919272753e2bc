"""Tasks by name, so that a process of its own finds them."""

import os
import signal
import subprocess
import time
from pathlib import Path

from minifinetuning.errors import InputError

LONG = "600"


def read_by_a_worker(path: Path) -> None:
    """As a run reads its batches with `--dataloader_num_workers 1`."""
    from torch.utils.data import DataLoader

    numbers = DataLoader(range(3), batch_size=None, num_workers=1)
    path.write_text(str([int(number) for number in numbers]))


def fail() -> None:
    raise InputError("--steps is missing: give it")


def be_killed_with_a_child(path: Path) -> None:
    path.write_text(str(subprocess.Popen(["sleep", LONG]).pid))
    os.kill(os.getpid(), signal.SIGKILL)


def wait_with_a_child(path: Path) -> None:
    child = subprocess.Popen(["sleep", LONG])
    path.with_suffix(".new").write_text(f"{os.getpid()} {child.pid}")
    path.with_suffix(".new").rename(path)
    child.wait()


def meet(folder: Path, name: str, others: list[str]) -> None:
    """Says which GPU it sees, and ends once the others have begun."""
    (folder / name).write_text(os.environ["CUDA_VISIBLE_DEVICES"])
    deadline = time.monotonic() + 60
    while not all((folder / other).exists() for other in others):
        assert time.monotonic() < deadline
        time.sleep(0.02)
