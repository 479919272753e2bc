"""Files to texts, a module for each kind of file: a page is one text, a table one text a row.

Readers look like one of these two, and `_PAGES` and `_TABLES` say which ending is read by which:

    page(path, note) -> text
    table(path, text_field, note) -> texts          # for text in texts(): ... anew at each call

Both raise `text_files.UnreadableError` where the file is not what its ending says, and tell `note`
what a person must know of it. A new ending is also named in `data/sources.py`. Libraries that parse
a kind of file are imported once such a file is read.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from minifinetuning.data.readers.arrow import dataset_table, parquet_table
from minifinetuning.data.readers.columns import Texts
from minifinetuning.data.readers.html import html_page
from minifinetuning.data.readers.mail import mail_page, mailbox_table
from minifinetuning.data.readers.markdown import markdown_page, notebook_page
from minifinetuning.data.readers.tables import csv_table, json_lines_table, json_table
from minifinetuning.data.readers.text_files import Note, code_page, subtitles_page, text_page
from minifinetuning.data.sources import CODE_ENDINGS, FileOrDataset, supported_ending

_PAGES: dict[str | None, Callable[[Path, Note], str]] = {
    ".html": html_page,
    ".htm": html_page,
    ".xhtml": html_page,
    ".md": markdown_page,
    ".markdown": markdown_page,
    ".ipynb": notebook_page,
    ".srt": subtitles_page,
    ".eml": mail_page,
    **dict.fromkeys(CODE_ENDINGS, code_page),
}
"""Other pages are text as they are."""

_TABLES: dict[str | None, Callable[[Path, str | None, Note], Texts]] = {
    ".jsonl": json_lines_table,
    ".ndjson": json_lines_table,
    ".json": json_table,
    ".csv": csv_table,
    ".tsv": csv_table,
    ".mbox": mailbox_table,
    ".parquet": parquet_table,
}


def file_texts(
    file: FileOrDataset, text_field: str | None, note: Note, read_ahead: bool = False
) -> Iterator[tuple[int | None, str]]:
    """The texts of a file or a dataset, each with its row, or None where it is a page.

    With `read_ahead` a table is read to its end before its first text comes, so that it gives all
    of them or an error. Raises UnreadableError where a file cannot be read, and InputError where a
    table is malformed or its text column is not clear.
    """
    if isinstance(file, str) or file.is_dir():
        texts = dataset_table(file, text_field, note)
    elif (ending := supported_ending(file.name)) in _TABLES:
        texts = _TABLES[ending](file, text_field, note)
    else:
        yield None, _PAGES.get(ending, text_page)(file, note)
        return
    if read_ahead:
        for _ in texts():
            pass
    number = 0
    for number, text in enumerate(texts(), start=1):
        yield number, text
    if not number:
        note("a table without rows")
