"""Files that are whole or not there at all, and the user's cache folder."""

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["cache_folder", "replacing", "write_atomically"]


def cache_folder() -> Path:
    """What can be made or fetched again: $MINIFINETUNING_CACHE, or a folder in the user's cache."""
    if own := os.environ.get("MINIFINETUNING_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minifinetuning"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, for a file or a folder; renamed to `path` when all went well.

        with replacing(path) as temporary:
            temporary.write_bytes(content)

    Nothing is left of it where an exception ends the block. The folders above `path` are made.
    The name differs each time, so that two writers of one file do not meet, even over a network.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | dict[str, Any]) -> None:
    """Write text, or a dict as JSON, with a line feed at its end, under a temporary name first."""
    text = content if isinstance(content, str) else json.dumps(content, indent=2, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n" if not text.endswith("\n") else text, encoding="utf-8")
