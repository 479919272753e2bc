"""A tiny teacher and a store of a few small parts."""

import os
import signal
import sys
import warnings
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from minifinetuning.teacher import fingerprint as contents_module
from minifinetuning.teacher.columns import columns
from minifinetuning.teacher.fingerprint import Contents, Fingerprint, text_identity
from minifinetuning.teacher.store import TeacherStore


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of two sequences of 15 predictions by 32 float32 states."""
    monkeypatch.setattr(contents_module, "PART_BYTES", 2 * 15 * 32 * 4 + 600)


@pytest.fixture
def store_of(tmp_path):
    """`store_of(sequences, kind)`: an empty store for a model of width 32 in float32."""

    def make(sequences, kind="hidden", weights="w", folder=tmp_path / "store"):
        identity = text_identity(sequences)
        fingerprint = Fingerprint(kind, identity.digest, weights, "float32", "float32 weights")
        described = columns(kind, 32, torch.float32)
        return TeacherStore(folder, Contents(fingerprint, described, identity.predictions))

    return make


@pytest.fixture
def no_autocast():
    return nullcontext


class Forked:
    """`python -c PROGRAM ARGUMENTS`, in a process forked from this one: torch is there already.

    What it prints is `stdout`, what is written to `stdin` it reads.
    """

    def __init__(self, program: str, *arguments: str) -> None:
        theirs_in, ours_in = os.pipe()
        ours_out, theirs_out = os.pipe()
        self.returncode: int | None = None
        with warnings.catch_warnings():
            # Other threads of this process may be waiting; none holds what is used here.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            os.close(ours_in)
            os.close(ours_out)
            self._run(program, arguments, theirs_in, theirs_out)
        os.close(theirs_in)
        os.close(theirs_out)
        self.stdin = os.fdopen(ours_in, "w")
        self.stdout = os.fdopen(ours_out)

    @staticmethod
    def _run(program: str, arguments: tuple[str, ...], stdin: int, stdout: int) -> None:
        """In the child: it must never come back into the test, whatever happens."""
        code = 1
        try:
            sys.argv = ["-c", *arguments]
            sys.stdin, sys.stdout = os.fdopen(stdin), os.fdopen(stdout, "w")
            exec(compile(program, "<forked>", "exec"), {"__name__": "__main__"})
            sys.stdout.flush()
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)

    def finished(self) -> str:
        """All that it still prints, once it has ended."""
        self.stdin.close()
        printed = self.stdout.read()
        self._wait()
        return printed

    def kill(self) -> None:
        """End it where it has not ended yet."""
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)
            self._wait()

    def _wait(self) -> None:
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, *_: Any) -> None:
        self.kill()
        self.stdin.close()
        self.stdout.close()


@pytest.fixture
def forked() -> type[Forked]:
    """`forked(PROGRAM, *ARGUMENTS)`: where a new interpreter would spend seconds on its imports."""
    return Forked
