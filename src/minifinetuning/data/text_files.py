"""UTF-8 text in files, plain or packed by gzip: whole, or line by line."""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

_CHUNK = 1 << 16
"""Bytes that are looked at together."""


class UnreadableError(Exception):
    """The file is no UTF-8 text; the message is the short reason."""


def whole_text(path: Path) -> str:
    """The text of the file, with one line feed as line end on every system.

    Raises UnreadableError.
    """
    with _opened(path) as file:
        content = file.read()
    if b"\0" in content:
        raise UnreadableError("binary")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UnreadableError("not UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def text_lines(path: Path) -> Iterator[str]:
    """The lines of `whole_text`, each with its line feed, of which only one is held at a time."""
    # By its default, all line ends are translated to line feeds, and those alone end a line.
    with _opened(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig") as lines:
        yield from lines


def require_text(path: Path) -> None:
    """Read the file once through, for an UnreadableError before the first of its lines is used."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    is_text = True
    with _opened(path) as file:
        # Up to its end even where it is no UTF-8: whoever sees "binary" knows at once why.
        while chunk := file.read(_CHUNK):
            if b"\0" in chunk:
                raise UnreadableError("binary")
            is_text = is_text and _decodes(decoder, chunk)
    if not (is_text and _decodes(decoder, b"", final=True)):
        raise UnreadableError("not UTF-8")


def _decodes(decoder: codecs.IncrementalDecoder, chunk: bytes, final: bool = False) -> bool:
    try:
        decoder.decode(chunk, final)
    except UnicodeDecodeError:
        return False
    return True


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The unpacked bytes of the file."""
    try:
        with _binary(path) as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableError(getattr(error, "strerror", None) or "damaged gzip") from None


def _binary(path: Path) -> IO[bytes]:
    return (
        cast(IO[bytes], gzip.open(path)) if path.name.lower().endswith(".gz") else path.open("rb")
    )
