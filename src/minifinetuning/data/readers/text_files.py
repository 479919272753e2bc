"""Text in files, plain or packed by gzip, in whatever encoding: whole, or line by line."""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from minifinetuning.data.readers.encodings import (
    UTF_8,
    declared_encoding,
    guessed_encoding,
    marked_encoding,
)
from minifinetuning.data.readers.tables import Note
from minifinetuning.data.readers.unreadable import UnreadableError

LONGEST_PAGE = 256 << 20
"""Bytes that a file may hold, unpacked, where it is read whole."""
LONGEST_LINE = 64 << 20
"""Characters that a line, which is read at once, may hold."""

_CHUNK = 1 << 16
"""Bytes that are looked at together."""
_HEAD = 1 << 12
"""Bytes of a page within which it may say its encoding."""
_SAMPLE = 1 << 18
"""Bytes, from the first that are no UTF-8 on, by which an encoding is guessed."""


def text_encoding(path: Path, note: Note = lambda _: None, is_page: bool = False) -> str:
    """How the file is encoded, read once through to its end: by its mark, as UTF-8, or guessed.

    What an HTML page says itself (`is_page`) is taken where it decodes the page. Notes what is not
    UTF-8. Raises UnreadableError where it is no text, before any of it is used.
    """
    with _opened(path) as file:
        front = file.read(_CHUNK)
        marked = marked_encoding(front)
        declared = declared_encoding(front[:_HEAD]) if is_page and marked is None else None
        encoding = marked or UTF_8
        sample, is_foreign = _undecodable(file, front, encoding)
    name, how = encoding, "as which it was recognised"
    # What is UTF-8 throughout is so, whatever it says, unless it is said to be in 7 bits.
    if declared and (sample or declared.startswith("iso2022")) and _decodes(path, declared):
        sample, name, how = b"", declared, "as it says itself"
    if sample:
        if marked is not None or not is_foreign or _is_mostly_utf_8(sample):
            raise UnreadableError(
                f"damaged {encoding.removesuffix('_sig').replace('_', '-').upper()}"
            )
        guess = guessed_encoding(sample)
        if guess is None or not _decodes(path, guess.encoding):
            raise UnreadableError("in no encoding that could be recognised")
        name = guess.encoding
        how = (
            how if guess.is_sure else "perhaps wrongly: look at its letters, or convert it to UTF-8"
        )
    if name != UTF_8:
        note(f"read as {name.replace('_', '-')}, {how}")
    return name


def whole_text(path: Path, encoding: str) -> str:
    """The text of the file, with one line feed as line end on every system.

    Raises UnreadableError, also where the file holds more than `LONGEST_PAGE`.
    """
    text = whole_bytes(path).decode(encoding)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def whole_bytes(path: Path) -> bytes:
    """What the file holds, unpacked; raises UnreadableError as `whole_text` does."""
    content = bytearray()
    with _opened(path) as file:
        # Not in one go, for which memory would be taken up to the limit.
        while chunk := file.read(16 * _CHUNK):
            content += chunk
            if len(content) > LONGEST_PAGE:
                raise UnreadableError(
                    f"above {LONGEST_PAGE >> 20} MiB: split it, "
                    "or write it as JSON lines, a text a line"
                )
    return bytes(content)


def text_lines(path: Path, encoding: str) -> Iterator[str]:
    """The lines of `whole_text`, each with its line feed, of which only one is held at a time.

    Raises UnreadableError where a line holds more than `LONGEST_LINE`.
    """
    # By its default, all line ends are translated to line feeds, and those alone end a line.
    with _opened(path) as file, io.TextIOWrapper(file, encoding=encoding) as lines:
        number = 0
        while line := lines.readline(LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE:
                raise UnreadableError(
                    f"line {number} is above {LONGEST_LINE >> 20} million characters: "
                    "is it a table with a row a line?"
                )
            yield line


def _decodes(path: Path, encoding: str) -> bool:
    """Whether all of the file is text in this encoding."""
    with _opened(path) as file:
        return not _undecodable(file, file.read(_CHUNK), encoding)[0]


def _undecodable(file: IO[bytes], front: bytes, encoding: str) -> tuple[bytes, bool]:
    """From the first chunk on that does not decode, as many bytes as tell an encoding.

    No bytes where all of the file decodes. And whether all before was ASCII. Raises UnreadableError
    where it is no text at all.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    # In 16 and 32 bits a letter, half of the bytes of plain text are zero.
    is_wide = encoding.startswith(("utf_16", "utf_32"))
    sample = b""
    is_ascii = True
    chunk = front
    # To the end even where it does not decode: whoever sees "binary" knows at once why.
    while True:
        if b"\0" in chunk and not is_wide:
            raise UnreadableError("binary")
        if sample:
            sample += chunk[: _SAMPLE - len(sample)]
        else:
            try:
                decoded = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError:
                sample = chunk or b"\xff"
            else:
                if is_wide and "\0" in decoded:
                    raise UnreadableError("binary")
                is_ascii = is_ascii and decoded.isascii()
        if not chunk:
            return sample, is_ascii
        chunk = file.read(_CHUNK)


def _is_mostly_utf_8(sample: bytes) -> bool:
    """Whether more letters beyond ASCII are whole than broken, as nothing but UTF-8 has it."""
    text = sample.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    return sum(not letter.isascii() for letter in text) > 2 * broken


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
