"""What the file system refuses while a run writes, as one sentence."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import disk_usage

from minifinetuning.errors import InputError
from minifinetuning.teacher.contents import format_bytes

__all__ = ["naming_what_fails", "not_writable", "require_space"]

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_WRITABLE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG),
    *(errno.EIO, errno.ESTALE),
)
# safetensors and torch tell of what the system said in words only.
_WORDS_OF_NO_SPACE = ("No space left on device", "Disk quota exceeded", "File too large")


def require_space(folder: Path, needed: int) -> None:
    """Raise InputError where the disk of `folder` has fewer bytes free than will be needed."""
    free = disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"--output_dir {folder}: what will be written there takes {format_bytes(needed)} or "
            f"more, and its disk has {format_bytes(free)} free: free some, or name a folder on "
            "another disk"
        )


@contextmanager
def naming_what_fails(folder: Path) -> Iterator[None]:
    """Raise InputError in place of what the file system refuses to a block that fills `folder`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if _is_no_space(error):
            raise InputError(
                f"no space left while writing to {folder}: free some, or name a folder on another "
                "disk"
            ) from error
        if isinstance(error, OSError) and _is_refusal(error, folder):
            raise not_writable(folder, error) from error
        raise


def not_writable(path: Path, error: OSError, option: str = "--output_dir") -> InputError:
    """Why nothing can be written there."""
    return InputError(f"{option} {path} cannot be written ({_reason(error)}): name another place")


def _is_no_space(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _NO_SPACE
    said = str(error)
    if "inline_container.cc" in said:  # torch's reader and writer of checkpoints
        return "Reader" not in said
    return any(words in said for words in _WORDS_OF_NO_SPACE)


def _is_refusal(error: OSError, folder: Path) -> bool:
    """Whether it is about a file in the folder: one that is read has an error of its own."""
    if error.errno not in _NOT_WRITABLE or not isinstance(error.filename, str | os.PathLike):
        return False
    return Path(error.filename).absolute().is_relative_to(folder.absolute())


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200]
