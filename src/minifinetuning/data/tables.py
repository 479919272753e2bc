"""Tables (JSON, CSV) to texts: one row, one text."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from minifinetuning.errors import InputError

Row = str | dict[str, Any]


def json_rows(content: str, name: str) -> list[Row]:
    """The rows of a JSON file: a list of objects or strings, or one object, which is one row.

    Raises InputError, naming file and line, where the JSON is malformed.
    """
    value = _json_value(content, name)
    if isinstance(value, dict):
        return [value]
    if not isinstance(value, list):
        raise InputError(
            f"{name} holds a {type(value).__name__}, not a list of objects or strings: "
            "write it as a list, or as text in a .txt file"
        )
    return [_row(item, f"{name}:{number}") for number, item in enumerate(value, start=1)]


def json_lines_rows(lines: Iterable[str], name: str) -> Iterator[Row]:
    """The rows of a JSON lines file: an object or a string a line; blank lines are ignored.

    Raises InputError, naming file and line, where the JSON is malformed.
    """
    for number, line in enumerate(lines, start=1):
        if line.strip():
            value = _json_value(line.removesuffix("\n"), name, first_line=number)
            yield _row(value, f"{name}:{number}")


def csv_rows(lines: Iterable[str], name: str) -> Iterator[Row]:
    """The rows of a CSV file whose first line is the header.

    Raises InputError, naming file and line, where quotes or the number of cells are wrong.
    """
    reader = csv.DictReader(lines, strict=True)
    try:
        while (row := _next_row(reader)) is not None:
            if None in row:
                raise csv.Error("more cells than the header has")
            yield row
    except csv.Error as error:
        raise InputError(
            f"{name}, line {reader.line_num}: malformed CSV ({error}); "
            "put text that holds commas, quotes or line breaks in double quotes"
        ) from None


def _next_row(reader: "csv.DictReader[str]") -> dict[str, Any] | None:
    # The csv module refuses cells over 128 KiB, which a document easily is. Its limit is the whole
    # process's, so it is put back before anyone else runs.
    limit = csv.field_size_limit(2**31 - 1)
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(limit)


def row_texts(
    read: Callable[[], Iterable[Row]], name: str, text_field: str | None
) -> Iterator[str]:
    """The text of each row: the row itself where it is a string, else its text column.

    `read` gives the rows anew at each call: they are gone through once to choose the column, as
    `text_column` does, and once for the texts. A missing or null cell gives an empty text.
    Raises InputError where there is no such column, or where a cell of it is no text.
    """
    column = _row_column(read(), name, text_field)
    for number, row in enumerate(read(), start=1):
        cell = row.get(column) if isinstance(row, dict) else row
        yield cell_text(cell, column, f"{name}:{number}")


def _row_column(rows: Iterable[Row], name: str, text_field: str | None) -> str:
    """The text column of all rows; no more of them are read than decide it."""
    wanted = "text" if text_field is None else text_field
    kinds: dict[str, set[type]] = {}
    has_objects = False
    for row in rows:
        if not isinstance(row, dict):
            continue
        if wanted in row:
            return wanted
        has_objects = True
        for key, cell in row.items():
            kinds.setdefault(key, set()).update([] if cell is None else [type(cell)])
    if not has_objects:
        return ""
    candidates = [key for key, found in kinds.items() if found == {str}]
    return text_column([*kinds], candidates, name, text_field)


def text_column(
    columns: Sequence[str], candidates: Sequence[str], name: str, text_field: str | None
) -> str:
    """The column that holds the text: `text_field`, else `text`, else the only one of strings.

    `candidates` are the `columns` that hold strings. Raises InputError, listing the columns.
    """
    if text_field is not None:
        if text_field not in columns:
            raise InputError(
                f"{name} has no column {text_field!r}: choose with --text_field "
                f"one of {', '.join(columns)}"
            )
        return text_field
    if "text" in columns:
        return "text"
    if not candidates:
        raise InputError(f"{name} has no column of text, only {', '.join(columns) or 'no columns'}")
    if len(candidates) > 1:
        raise InputError(
            f"{name} has several columns of text: choose with --text_field "
            f"one of {', '.join(candidates)}"
        )
    return candidates[0]


def cell_text(cell: Any, column: str, place: str) -> str:
    """The text in a cell, none where it is null; raises InputError, naming `place`, for others."""
    if cell is None:
        return ""
    if not isinstance(cell, str):
        raise InputError(
            f"{place}: column {column!r} holds a {type(cell).__name__}, not text: "
            "choose another with --text_field"
        )
    # JSON can escape half of a surrogate pair, which no encoder or tokenizer accepts.
    return cell.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _json_value(content: str, name: str, first_line: int = 1) -> Any:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise InputError(
            f"{name}, line {line}: malformed JSON ({error.msg}, column {error.colno}); "
            "mend or remove it"
        ) from None


def _row(item: Any, place: str) -> Row:
    if not isinstance(item, (str, dict)):
        raise InputError(
            f"{place} is a {type(item).__name__}: each row must be an object or a string"
        )
    return item
