"""Tables written as CSV or JSON, row by row."""

import csv
import json
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from minifinetuning.data.readers.columns import Row, Texts, holds_text, row_texts
from minifinetuning.data.readers.text_files import (
    LONGEST_LINE,
    Note,
    text_encoding,
    text_lines,
    text_page,
)
from minifinetuning.data.sources import supported_ending
from minifinetuning.errors import InputError
from minifinetuning.files import printable

_SENTENCE = 3
"""Words of the shortest sentence."""

_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_DECIDING_ROWS = 100
_DECIDING_CHARACTERS = 1 << 18


def csv_table(path: Path, text_field: str | None, note: Note) -> Texts:
    """The texts of a CSV file, whatever stands between its cells: in .tsv it is a tab.

    Raises InputError where that cannot be told, where the file is malformed, or as `row_texts`.
    """
    encoding, name = text_encoding(path, note), printable(path)
    is_tsv = supported_ending(path.name) == ".tsv"
    delimiter = "\t" if is_tsv else _csv_delimiter(text_lines(path, encoding), name)
    if delimiter != "," and not is_tsv:
        note(f"cells taken as cut by {_DELIMITERS[delimiter]}s")

    def rows(note: Note, has_quotes: bool) -> Iterator[Row]:
        lines = text_lines(path, encoding)
        quotechar = '"' if has_quotes else None
        reader = csv.reader(lines, strict=True, delimiter=delimiter, quotechar=quotechar)
        return _csv_rows(reader, name, text_field, note)

    # A file of tabs seldom encloses its cells, and then its quotation marks are text.
    has_quotes = not is_tsv or not _is_malformed(rows(lambda _: None, has_quotes=True))
    if not has_quotes:
        note("quotation marks taken as text, since they do not enclose cells")
    return row_texts(lambda: rows(note, has_quotes), name, text_field, note, is_csv=True)


def json_lines_table(path: Path, text_field: str | None, note: Note) -> Texts:
    """The texts of a JSON lines file, as `json_lines_rows` and `row_texts` read it."""
    encoding, name = text_encoding(path, note), printable(path)
    return row_texts(
        lambda: json_lines_rows(text_lines(path, encoding), name), name, text_field, note
    )


def json_table(path: Path, text_field: str | None, note: Note) -> Texts:
    """The texts of a JSON file: of a list of objects or strings, or of one object.

    The object is one row, or holds the rows as the list `text_field` (by default `text`). Raises
    InputError where the JSON is malformed, where an object holds lists with text and nobody said
    that one of them is meant, or as `row_texts`.
    """
    name = printable(path)
    value = json_value(text_page(path, note), name)
    if isinstance(value, dict):
        wanted = "text" if text_field is None else text_field
        if isinstance(value.get(wanted), list):
            note(f"the list {wanted!r} taken as rows, and nothing else of the file")
            value, text_field = value[wanted], None
        else:
            if wanted not in value:
                _require_row(value, wanted, name)
            value = [value]
    if not isinstance(value, list):
        raise InputError(
            f"{name} holds a {type(value).__name__}, not a list of objects or strings: "
            "write it as a list, or as text in a .txt file"
        )
    rows = [_row(item, f"{name}:{number}") for number, item in enumerate(value, start=1)]
    return row_texts(lambda: rows, name, text_field, note)


def _csv_rows(reader: Any, name: str, text_field: str | None, note: Note) -> Iterator[Row]:
    """The rows of a CSV file whose first line is the header.

    A single column whose first line is a sentence has no header, unless `text_field` says one.
    Raises InputError, naming file and line, where quotes or the number of cells are wrong, or where
    two columns are called as the text is.
    """
    header: list[str] = []
    begin, is_headless = 0, False
    try:
        while (row := _next(reader)) is not None:
            if header and row:
                if len(row) > len(header):
                    raise csv.Error("more cells than the header has")
                yield row[0] if is_headless else dict(zip_longest(header, row))
            elif row:
                header, is_headless = row, text_field is None and _is_sentence(row)
                _check_header(header, is_headless, name, text_field or "text", note)
                if is_headless:
                    yield header[0]
            begin = reader.line_num
    except csv.Error as error:
        # Quotes that nothing closes end with the file.
        at = begin + 1 if "end of data" in str(error) else reader.line_num
        raise InputError(
            f"{name}, line {at}: malformed CSV ({error}); put text that holds "
            f"{_DELIMITERS[reader.dialect.delimiter]}s, quotes or line breaks in double quotes"
        ) from None


def _is_malformed(rows: Iterable[Row]) -> bool:
    try:
        for _ in rows:
            pass
    except InputError:
        return True
    return False


def _check_header(header: list[str], is_headless: bool, name: str, wanted: str, note: Note) -> None:
    if header.count(wanted) > 1:
        raise InputError(f"{name} has several columns {wanted!r}: rename all but one")
    if is_headless:
        note("its first line taken as text, not as a header")
    elif len(header) == 1 and header != [wanted]:
        note(f"the first line, {header[0]!r}, taken as a header")


def _is_sentence(header: list[str]) -> bool:
    cell = header[0]
    ends = cell.rstrip("\"'”’)").endswith((".", "!", "?", "…", "。"))  # noqa: RUF001
    return len(header) == 1 and len(cell.split()) >= _SENTENCE * (1 if ends else 4)


def _csv_delimiter(lines: Iterable[str], name: str) -> str:
    """What stands between the cells: that which the header and the first rows have alike.

        alike = {d for d in _DELIMITERS if the first rows, cut at d, have as many cells, above 1}

    A comma where the header has one cell by all of them, or where it holds one. Raises InputError
    where several delimiters or none would do.
    """
    front: list[str] = []
    characters = 0
    for line in lines:
        front.append(line)
        characters += len(line)
        if characters > _DECIDING_CHARACTERS:
            break
    cells = {delimiter: _cells(front, delimiter) for delimiter in _DELIMITERS}
    alike = [d for d, counts in cells.items() if counts[0] > 1 and set(counts) == {counts[0]}]
    if len(alike) == 1:
        return alike[0]
    # Where rows differ, reading by commas names the line.
    if cells[","][0] > 1 or all(counts[0] < 2 for counts in cells.values()):
        return ","
    raise InputError(
        f"{name}: it cannot be told what stands between its cells; "
        "write it with commas, and texts in double quotes"
    )


def _cells(front: list[str], delimiter: str) -> list[int]:
    """The numbers of cells of the first rows; [0] where they are no CSV."""
    reader = csv.reader(front, strict=True, delimiter=delimiter)
    counts: list[int] = []
    try:
        while len(counts) < _DECIDING_ROWS and (row := _next(reader)) is not None:
            if row:
                counts.append(len(row))
    except csv.Error:
        # The last row may be cut off within its quotes.
        if reader.line_num < len(front) or not counts:
            return [0]
    return counts or [0]


def _next(reader: Any) -> Any:
    # The csv module refuses cells over 128 KiB, which a document easily is. Its limit is the whole
    # process's, so it is put back before anyone else runs.
    limit = csv.field_size_limit(LONGEST_LINE)
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(limit)


def json_lines_rows(lines: Iterable[str], name: str) -> Iterator[Row]:
    """The rows of a JSON lines file: an object or a string a line; blank lines are ignored.

    Raises InputError, naming file and line, where the JSON is malformed.
    """
    for number, line in enumerate(lines, start=1):
        if line.strip():
            value = json_value(line.removesuffix("\n"), name, first_line=number)
            yield _row(value, f"{name}:{number}")


def json_value(content: str, name: str, first_line: int = 1) -> Any:
    """What the JSON says; raises InputError, naming file and line, where it is malformed."""
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        line, reason = first_line + error.lineno - 1, f"{error.msg}, column {error.colno}"
    except RecursionError:
        line, reason = first_line, "nested too deeply"
    except ValueError:
        # Not in any standard, but in Python: a limit of digits.
        line, reason = first_line, "a number of too many digits"
    raise InputError(f"{name}, line {line}: malformed JSON ({reason}); mend or remove it")


def _require_row(value: dict[str, Any], wanted: str, name: str) -> None:
    """Refuse one JSON object whose text lies in lists, or that holds settings."""
    lists = [key for key, cell in value.items() if isinstance(cell, list) and holds_text(cell)]
    if lists:
        raise InputError(
            f"{name} is one object with text in the list {', '.join(lists)}: name the list that "
            f"holds the documents, as --text_field {lists[0]}, or write them as a list alone"
        )
    has_settings = any(isinstance(cell, (dict, list, bool)) for cell in value.values())
    if has_settings and not holds_text(value):
        raise InputError(
            f"{name} is one object without text, as settings are: leave it out, "
            f"or call its text {wanted!r}"
        )


def _row(item: Any, place: str) -> Row:
    if not isinstance(item, (str, dict)):
        raise InputError(
            f"{place} is a {type(item).__name__}: each row must be an object or a string"
        )
    return item
