"""Any source to documents, one at a time: files, folders, patterns and datasets."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from minifinetuning.data.arrow import dataset_texts, parquet_texts
from minifinetuning.data.markup import visible_text
from minifinetuning.data.places import PAGE_ENDINGS, SUPPORTED, Place, source_places
from minifinetuning.data.tables import csv_rows, json_lines_rows, json_rows, row_texts
from minifinetuning.data.text_files import UnreadableError, require_text, text_lines, whole_text
from minifinetuning.errors import InputError


@dataclass(frozen=True)
class Document:
    """One text, and the path that it comes from (`path:ROW`, 1-based, for a row of a table)."""

    text: str
    source: str


@dataclass(frozen=True)
class Documents:
    """The documents read, the numbers of empty and repeated ones left out, and files skipped."""

    items: list[Document]
    empty: int
    repeated: int
    skipped: list[str]

    def __iter__(self) -> Iterator[Document]:
        return iter(self.items)

    @property
    def count(self) -> int:
        """The number of `items`."""
        return len(self.items)


def read_documents(
    sources: Sequence[str], text_field: str | None = None, skip_unreadable: bool = False
) -> Documents:
    """The documents of a `DocumentStream`, all at once."""
    stream = DocumentStream(sources, text_field, skip_unreadable)
    return Documents(list(stream), stream.empty, stream.repeated, stream.skipped)


class DocumentStream:
    """The documents of all sources in order, without empty and exactly repeated ones.

    A source is a file, a folder (recursive, hidden files ignored), a glob pattern, a folder made
    by `datasets.save_to_disk`, or a dataset id `owner/name` or `owner/name:config`. Text files and
    HTML pages are one document each; a row of a table (.jsonl, .jsonl.gz, .json, .csv, .parquet,
    a dataset) is one document: its column `text_field`, else `text`, else its only text column.
    Texts that differ in the white space around them alone count as repeated.

    Every iteration reads the sources anew and holds little more than one document at a time (a
    .json file whole). When it has ended, `count` is the number of documents that it gave, `empty`
    and `repeated` of those that it left out, and `skipped` names the files that it left out.

    Raises InputError where a source does not exist; and, while it reads, where a table is
    malformed or its text column is not clear, a file is not UTF-8 (unless `skip_unreadable`), or
    nothing with text was found.
    """

    def __init__(
        self, sources: Sequence[str], text_field: str | None = None, skip_unreadable: bool = False
    ) -> None:
        if isinstance(sources, str):
            raise InputError(f"sources must be a list of strings: pass [{sources!r}]")
        self.sources = list(sources)
        self.text_field = text_field
        self.skip_unreadable = skip_unreadable
        self.places = [place for source in sources for place in source_places(source)]
        self.count = self.empty = self.repeated = 0
        self.skipped: list[str] = []

    def __iter__(self) -> Iterator[Document]:
        self.count = self.empty = self.repeated = 0
        unreadable: dict[str, str] = {}
        seen: set[bytes] = set()
        for place in self.places:
            try:
                for document in _place_documents(place, self.text_field):
                    if self._is_new(document.text.strip(), seen):
                        yield document
            except UnreadableError as error:
                unreadable[str(place)] = str(error)
        if unreadable and not self.skip_unreadable:
            raise InputError(_unreadable_message(unreadable))
        self.skipped = list(unreadable)
        if not self.count:
            named = ", ".join(self.sources) or "an empty list of sources"
            raise InputError(f"no documents with text in {named}; supported: {SUPPORTED}")

    def _is_new(self, text: str, seen: set[bytes]) -> bool:
        """Whether there is text, not yet seen; counts the document as what it is."""
        digest = hashlib.sha256(text.encode()).digest()
        if not text:
            self.empty += 1
        elif digest in seen:
            self.repeated += 1
        else:
            seen.add(digest)
            self.count += 1
            return True
        return False


def _unreadable_message(unreadable: dict[str, str]) -> str:
    named = ", ".join(f"{path} ({reason})" for path, reason in list(unreadable.items())[:5])
    more = f" and {len(unreadable) - 5} more" if len(unreadable) > 5 else ""
    return (
        f"cannot read as UTF-8 text: {named}{more}; "
        "convert to UTF-8, or pass --skip_unreadable to leave such files out"
    )


def _place_documents(place: Place, text_field: str | None) -> Iterator[Document]:
    name = str(place)
    if isinstance(place, str) or place.is_dir():
        texts = dataset_texts(place, text_field)
    elif name.lower().endswith(PAGE_ENDINGS):
        yield Document(_page_text(place), name)
        return
    else:
        texts = _table_texts(place, text_field)
    for row, text in enumerate(texts, start=1):
        yield Document(text, f"{name}:{row}")


def _page_text(path: Path) -> str:
    content = whole_text(path)
    return visible_text(content) if path.name.lower().endswith((".html", ".htm")) else content


def _table_texts(path: Path, text_field: str | None) -> Iterator[str]:
    name = str(path)
    ending = name.lower()
    if ending.endswith(".parquet"):
        return parquet_texts(path, text_field)
    if ending.endswith(".json"):
        rows = json_rows(whole_text(path), name)
        return row_texts(lambda: rows, name, text_field)
    # Beforehand, so that damage at the end leaves out all of the file's rows.
    require_text(path)
    as_rows = csv_rows if ending.endswith(".csv") else json_lines_rows
    return row_texts(lambda: as_rows(text_lines(path), name), name, text_field)
