"""Documents, one at a time, from any source: files, folders, patterns and datasets."""

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from minifinetuning.data.readers import file_texts
from minifinetuning.data.readers.text_files import UnreadableError
from minifinetuning.data.sources import SUPPORTED, FileOrDataset, Sources, ending
from minifinetuning.errors import InputError
from minifinetuning.files import printable


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Document:
    """One text, the file (or dataset) that it is from, and its row (1-based) in a table."""

    text: str
    file: str
    row: int | None = None

    @property
    def source(self) -> str:
        """The path, as `path:ROW` for a row of a table."""
        return self.file if self.row is None else f"{self.file}:{self.row}"


class DocumentStream:
    """The documents of all sources in order, without empty and exactly repeated ones.

    A source is a file, a folder (recursive, hidden files ignored, links followed), a glob pattern,
    a folder made by `datasets.save_to_disk`, or a dataset id `owner/name` or `owner/name:config`.
    A page of text is one document; a row of a table is one document: its column `text_field`, else
    `text`, else its only text column. `readers` knows the kinds. Texts that differ in the
    white space around them alone count as repeated.

    Every iteration reads the sources anew and holds little more than one document at a time (a
    .json file whole), and at most 24 bytes for each that it has seen (36 for a moment where their
    table grows). When it has ended, `count` is the number of documents that it gave, `empty` and
    `repeated` of those that it left out, `skipped` names the files that could not be read,
    `left_out` counts all files that are not read by their ending, and `notes` are sentences that a
    person must be told.

    Raises InputError where a source does not exist; and, while it reads, where nothing with text
    was found, or a file is not what its ending says or has no clear text column (unless
    `skip_unreadable`).
    """

    def __init__(
        self, sources: Sequence[str], text_field: str | None = None, skip_unreadable: bool = False
    ) -> None:
        if isinstance(sources, str):
            raise InputError(f"sources must be a list of strings: pass [{sources!r}]")
        self.sources = list(sources)
        self.text_field = text_field
        self.skip_unreadable = skip_unreadable
        self._found = Sources(self.sources)
        self.files = self._found.files
        self.count = self.empty = self.repeated = 0
        self.skipped: list[str] = []
        self.left_out = Counter(self._found.unread)
        self.notes: list[str] = []
        self._whole_tables: set[FileOrDataset] = set()

    def __iter__(self) -> Iterator[Document]:
        self.count = self.empty = self.repeated = 0
        unreadable = dict.fromkeys(self._found.closed, "a folder that may not be opened")
        files_of_note: dict[str, list[str]] = {}
        seen = SeenTexts()
        for file in self.files:
            try:
                for document in self._documents_of(file, files_of_note):
                    text = document.text.strip()
                    if not text:
                        self.empty += 1
                    elif seen.add(text):
                        self.count += 1
                        yield document
                    else:
                        self.repeated += 1
            except UnreadableError as error:
                unreadable[printable(file)] = str(error)
        if unreadable and not self.skip_unreadable:
            raise InputError(_unreadable_message(unreadable))
        self.skipped = list(unreadable)
        self.left_out = Counter(self._found.unread)
        self.left_out.update(map(ending, unreadable))
        self.notes = [f"{note}: {_some(files)}" for note, files in files_of_note.items()]
        if not self.count:
            named = ", ".join(map(printable, self.sources)) or "an empty list of sources"
            reason = f"; {_unreadable_message(unreadable)}" if unreadable else ""
            raise InputError(f"no documents with text in {named}; supported: {SUPPORTED}{reason}")

    def _documents_of(
        self, file: FileOrDataset, files_of_note: dict[str, list[str]]
    ) -> Iterator[Document]:
        """The documents of one file; raises UnreadableError before the first, or InputError."""
        name = printable(file)

        def note(sentence: str) -> None:
            files = files_of_note.setdefault(sentence, [])
            if name not in files:
                files.append(name)

        try:
            is_known = isinstance(file, str) or file in self._whole_tables
            # Ahead, so that an error at the end leaves out all of the file's rows.
            read_ahead = self.skip_unreadable and not is_known
            for row, text in file_texts(file, self.text_field, note, read_ahead):
                yield Document(text, name, row)
            self._whole_tables.add(file)
        except InputError as error:
            if isinstance(file, str):
                raise
            if self.skip_unreadable:
                raise UnreadableError(str(error)) from None
            raise InputError(f"{error}; or leave such files out with --skip_unreadable") from None


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _unreadable_message(unreadable: dict[str, str]) -> str:
    named = ", ".join(f"{path} ({reason})" for path, reason in list(unreadable.items())[:5])
    more = f" and {len(unreadable) - 5} more" if len(unreadable) > 5 else ""
    return (
        f"cannot read as text: {named}{more}; "
        "convert to UTF-8 text, or pass --skip_unreadable to leave such files out"
    )


class SeenTexts:
    """A set of texts that holds 12 to 24 bytes of each: the front of its SHA-256.

        seen.add(text) == (text not in seen)        # and now it is

    Among 10 million texts the chance that any two are taken for one is 3 in a million.
    """

    def __init__(self) -> None:
        # A table of open places: a digest lies at the first free one from its own on.
        self._table = array("Q", bytes(8 << 10))
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, text: str) -> bool:
        """Add the text; whether it was not yet there."""
        digest = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") or 1
        place = _place(self._table, digest)
        if self._table[place]:
            return False
        self._table[place] = digest
        self._count += 1
        if 3 * self._count > 2 * len(self._table):
            self._grow()
        return True

    def _grow(self) -> None:
        larger = array("Q", bytes(16 * len(self._table)))
        for digest in self._table:
            if digest:
                larger[_place(larger, digest)] = digest
        self._table = larger


def _place(table: "array[int]", digest: int) -> int:
    """Where the digest lies, or else the free place for it."""
    last = len(table) - 1
    place = digest & last
    while (held := table[place]) and held != digest:
        place = (place + 1) & last
    return place
