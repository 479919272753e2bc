"""Text in files, plain or packed by gzip, in whatever encoding: whole, or line by line."""

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from minifinetuning.data.readers.encodings import (
    UTF_8,
    declared_encoding,
    guessed_encoding,
    marked_encoding,
)

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
_WIDEST_CODE = 500
"""Characters a line, on average, above which source code was written by a program."""
_CUE = re.compile(
    r"^(?:[ \t]*\d+[ \t]*\n)?(?:\d+:)?\d\d:\d\d[,.]\d{1,3}[ \t]+-->[ \t]+.*", re.MULTILINE
)
_STYLE = re.compile(r"</?[ibuc](?:[ .][^>\n]*)?>|</?font[^>\n]*>|\{\\[^}\n]*\}")

Note = Callable[[str], None]
"""Takes what a person must be told of a file, beside its name."""


class UnreadableError(Exception):
    """The file cannot be read as what its name promises; the message is the short reason."""


def text_page(path: Path, note: Note, may_declare: bool = False) -> str:
    """The text of a file, with one line feed as line end on every system.

    Raises UnreadableError as `text_encoding`, to which `may_declare` goes, and `whole_bytes`.
    """
    encoding = text_encoding(path, note, may_declare)
    text = whole_bytes(path).decode(encoding)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def code_page(path: Path, note: Note) -> str:
    """Source code; raises UnreadableError where a program wrote it."""
    content = text_page(path, note)
    if len(content) > _WIDEST_CODE * (content.count("\n") + 1):
        raise UnreadableError("code that no person wrote: its lines are too long")
    return content


def subtitles_page(path: Path, note: Note) -> str:
    """The lines of SubRip subtitles without their numbers, times and tags of style."""
    said = _STYLE.sub("", _CUE.sub("", text_page(path, note)))
    return "\n".join(line for line in said.split("\n") if line.strip())


def text_encoding(path: Path, note: Note, may_declare: bool = False) -> str:
    """How the file is encoded, read once through to its end: by its mark, as UTF-8, or guessed.

    What an HTML page says itself (`may_declare`) is taken where it decodes the page. Notes what is
    not UTF-8. Raises UnreadableError where it is no text, before any of it is used.
    """
    with _opened(path) as file:
        front = file.read(_CHUNK)
    marked = marked_encoding(front)
    declared = declared_encoding(front[:_HEAD]) if may_declare and marked is None else None
    encoding, how = marked or UTF_8, "as which it was recognised"
    sample, is_foreign = _undecodable(path, encoding)
    # What is UTF-8 throughout is so, whatever it says, unless it is said to be in 7 bits.
    may_be_declared = declared and (sample or declared.startswith("iso2022"))
    if declared and may_be_declared and _decodes(path, declared):
        encoding, how = declared, "as it says itself"
    elif sample:
        if marked is not None or not is_foreign or _is_mostly_utf_8(sample):
            raise UnreadableError(
                f"damaged {encoding.removesuffix('_sig').replace('_', '-').upper()}"
            )
        guess = guessed_encoding(sample)
        if guess is None or not _decodes(path, guess.encoding):
            raise UnreadableError("in no encoding that could be recognised")
        encoding = guess.encoding
        if not guess.is_sure:
            how = "perhaps wrongly: look at its letters, or convert it to UTF-8"
    if encoding != UTF_8:
        note(f"read as {encoding.replace('_', '-')}, {how}")
    return encoding


def whole_bytes(path: Path) -> bytes:
    """What the file holds, unpacked; raises UnreadableError above `LONGEST_PAGE`."""
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
    """The lines of `text_page`, each with its line feed, of which only one is held at a time.

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
    return not _undecodable(path, encoding)[0]


def _undecodable(path: Path, encoding: str) -> tuple[bytes, bool]:
    """From the first chunk on that does not decode, as many bytes as tell an encoding.

    No bytes where all of the file decodes. And whether all before was ASCII. Raises UnreadableError
    where it is no text at all.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    # In 16 and 32 bits a letter, half of the bytes of plain text are zero.
    is_wide = encoding.startswith(("utf_16", "utf_32"))
    sample = b""
    is_ascii, is_last = True, False
    with _opened(path) as file:
        # To the end even where it does not decode: whoever sees "binary" knows at once why.
        while not is_last:
            chunk = file.read(_CHUNK)
            is_last = not chunk
            decoded = ""
            if sample:
                sample += chunk[: _SAMPLE - len(sample)]
            else:
                try:
                    decoded = decoder.decode(chunk, final=is_last)
                except UnicodeDecodeError:
                    # A letter that is cut off at the end leaves no chunk of its own.
                    sample = chunk or b"\xff"
                is_ascii = is_ascii and decoded.isascii()
            if "\0" in decoded or (b"\0" in chunk and not is_wide):
                raise UnreadableError("binary")
    return sample, is_ascii


def _is_mostly_utf_8(sample: bytes) -> bool:
    """Whether more letters beyond ASCII are whole than broken, as nothing but UTF-8 has it."""
    text = sample.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    return sum(not letter.isascii() for letter in text) > 2 * broken


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The unpacked bytes of the file."""
    is_packed = path.name.lower().endswith(".gz")
    try:
        with cast(IO[bytes], gzip.open(path)) if is_packed else path.open("rb") as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableError(getattr(error, "strerror", None) or "damaged gzip") from None
