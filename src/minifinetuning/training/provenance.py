"""What a result was obtained with: versions, device, and the commit where there is one."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

__all__ = ["MEASURE", "commit", "device_name", "versions", "without_places"]

MEASURE = 2
"""To be raised where figures come to mean something else, so that older ones are not taken for new.

1 counted what is put in around documents, 2 counts text alone.
"""

_PACKAGES = ("minifinetuning", "torch", "transformers", "peft", "accelerate", "datasets")


def versions() -> dict[str, str]:
    """Of Python and of the packages that a result depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def device_name(device: torch.device) -> str:
    """The GPU by its name, or the CPU with its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def without_places(record: Any) -> Any:
    """A result with the last part of each absolute path in place of the path.

    Results are kept and shown; how the disk of their machine is laid out says nothing of them.
    """
    if isinstance(record, dict):
        return {name: without_places(value) for name, value in record.items()}
    if isinstance(record, list):
        return [without_places(value) for value in record]
    return Path(record).name if isinstance(record, str) and Path(record).is_absolute() else record


def commit() -> str | None:
    """The commit that this package is checked out at, with + where files differ from it.

    None where it was installed in another way.
    """
    folder = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--abbrev=12"],
            capture_output=True,
            text=True,
            check=True,
        )
        tracked = subprocess.run(
            ["git", "-C", str(folder), "ls-files", "--error-unmatch", Path(__file__).name],
            capture_output=True,
            check=False,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    # Installed inside somebody else's repository, its commit says nothing of this package.
    return described.stdout.strip() if tracked.returncode == 0 else None
