import os
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.sh"


def run_with(python: str, folder: Path) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """The script with another `python` in the first place of the PATH, and that one's calls."""
    calls = folder / "calls"
    stand_in = folder / "python"
    stand_in.write_text(f'#!/bin/sh\necho "$*" >> {calls}\n{python}\n')
    stand_in.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    command = ["bash", str(SCRIPT), str(folder / "results")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done, calls.read_text().splitlines()


def test_a_piece_that_fails_keeps_no_other_from_running(tmp_path: Path) -> None:
    done, calls = run_with('case "$*" in *tests/ops*|*step.py*) exit 3;; esac', tmp_path)
    _, all_calls = run_with("exit 0", tmp_path)
    assert calls == all_calls[: len(calls)]
    assert len(all_calls) == 2 * len(calls)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "FAILED: the op's tests (exit 3)",
        "FAILED: a step (exit 3)",
    ]


def test_a_run_without_a_failure_succeeds(tmp_path: Path) -> None:
    done, calls = run_with("exit 0", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert {call.split()[0] for call in calls} == {
        "-m",
        "benchmarks/loss.py",
        "benchmarks/step.py",
        "benchmarks/end_to_end.py",
        "benchmarks/growth.py",
    }
