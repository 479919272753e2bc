"""A place to its texts, by its kind: a page is one text, a table one a row."""

from collections.abc import Callable, Iterator
from pathlib import Path

from minifinetuning.data.readers.arrow import dataset_texts, parquet_texts
from minifinetuning.data.readers.csv_rows import DELIMITERS, csv_delimiter, csv_rows, has_csv_quotes
from minifinetuning.data.readers.json_rows import json_lines_rows, json_rows
from minifinetuning.data.readers.mail import mail_text, mailbox_texts
from minifinetuning.data.readers.markdown import markdown_text
from minifinetuning.data.readers.markup import visible_text
from minifinetuning.data.readers.notebook import notebook_text
from minifinetuning.data.readers.subtitles import spoken_text
from minifinetuning.data.readers.tables import Note, Row, row_texts
from minifinetuning.data.readers.text_files import text_encoding, text_lines, whole_text
from minifinetuning.data.readers.unreadable import UnreadableError
from minifinetuning.data.sources import CODE_ENDINGS, TABLE_ENDINGS, FileOrDataset, supported_ending
from minifinetuning.files import printable

_PAGES: dict[str, Callable[[str], str]] = {
    **dict.fromkeys((".html", ".htm", ".xhtml"), visible_text),
    **dict.fromkeys((".md", ".markdown"), markdown_text),
    ".srt": spoken_text,
}
"""What makes text of the content of a file; other pages are text as they are."""

_WIDEST_CODE = 500
"""Characters a line, on average, above which source code was written by a program."""


def place_texts(
    place: FileOrDataset, text_field: str | None, note: Note
) -> Iterator[tuple[int | None, str]]:
    """The texts of a file or a dataset, each with its row, or None where it is a page.

    Raises UnreadableError where a file cannot be read, before the first of its texts, and
    InputError where a table is malformed or its text column is not clear.
    """
    if isinstance(place, str) or place.is_dir():
        yield from _rows(dataset_texts(place, text_field, note), note)
    elif (ending := supported_ending(place.name)) in TABLE_ENDINGS:
        yield from _rows(_table_texts(place, str(ending), text_field, note), note)
    else:
        yield None, _page_text(place, str(ending), note)


def _rows(texts: Iterator[str], note: Note) -> Iterator[tuple[int, str]]:
    number = 0
    for number, text in enumerate(texts, start=1):
        yield number, text
    if not number:
        note("a table without rows")


def _page_text(path: Path, ending: str, note: Note) -> str:
    if ending == ".eml":
        return mail_text(path)
    is_page = _PAGES.get(ending) is visible_text
    content = whole_text(path, text_encoding(path, note, is_page))
    if ending == ".ipynb":
        return notebook_text(content, printable(path))
    if ending in CODE_ENDINGS and len(content) > _WIDEST_CODE * (content.count("\n") + 1):
        raise UnreadableError("code that no person wrote: its lines are too long")
    return _PAGES.get(ending, str)(content)


def _table_texts(path: Path, ending: str, text_field: str | None, note: Note) -> Iterator[str]:
    name = printable(path)
    if ending == ".parquet":
        return parquet_texts(path, text_field, note)
    if ending == ".mbox":
        return mailbox_texts(path)
    encoding = text_encoding(path, note)
    if ending == ".json":
        rows, column = json_rows(whole_text(path, encoding), name, text_field, note)
        return row_texts(lambda: rows, name, column, note)
    if ending in (".jsonl", ".ndjson"):
        return row_texts(
            lambda: json_lines_rows(text_lines(path, encoding), name), name, text_field, note
        )
    delimiter = "\t" if ending == ".tsv" else csv_delimiter(text_lines(path, encoding), name)
    if ending == ".csv" and delimiter != ",":
        note(f"cells taken as cut by {DELIMITERS[delimiter]}s")
    # A file of tabs seldom encloses its cells, and then its quotation marks are text.
    has_quotes = ending != ".tsv" or has_csv_quotes(text_lines(path, encoding), name, delimiter)
    if not has_quotes:
        note("quotation marks taken as text, since they do not enclose cells")

    def rows_of_csv() -> Iterator[Row]:
        lines = text_lines(path, encoding)
        return csv_rows(lines, name, text_field, note, delimiter, has_quotes)

    return row_texts(rows_of_csv, name, text_field, note)
