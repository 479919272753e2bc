"""Tables (JSON, CSV, Arrow) to texts: one row, one text."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from minifinetuning.errors import InputError

if TYPE_CHECKING:
    import pyarrow

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


def json_lines_rows(content: str, name: str) -> list[Row]:
    """The rows of a JSON lines file: an object or a string a line; blank lines are ignored.

    Raises InputError, naming file and line, where the JSON is malformed.
    """
    # Not splitlines(): JSON strings may hold U+2028 and the like unescaped.
    return [
        _row(_json_value(line, name, first_line=number), f"{name}:{number}")
        for number, line in enumerate(content.split("\n"), start=1)
        if line.strip()
    ]


def csv_rows(content: str, name: str) -> list[Row]:
    """The rows of a CSV file whose first line is the header.

    Raises InputError, naming file and line, where quotes or the number of cells are wrong.
    """
    # The csv module refuses cells over 128 KiB, which a document easily is.
    limit = csv.field_size_limit(2**31 - 1)
    reader = csv.DictReader(io.StringIO(content, newline=""), strict=True)
    rows: list[Row] = []
    try:
        for row in reader:
            if None in row:
                raise csv.Error("more cells than the header has")
            rows.append(dict(row))
    except csv.Error as error:
        raise InputError(
            f"{name}, line {reader.line_num}: malformed CSV ({error}); "
            "put text that holds commas, quotes or line breaks in double quotes"
        ) from None
    finally:
        csv.field_size_limit(limit)
    return rows


def row_texts(rows: Sequence[Row], name: str, text_field: str | None) -> list[str]:
    """The text of each row: the row itself where it is a string, else its text column.

    The column is chosen by `text_column`; a missing or null cell gives an empty text.
    Raises InputError where there is no such column, or where a cell of it is no text.
    """
    objects = [row for row in rows if isinstance(row, dict)]
    column = ""
    if objects:
        columns = list(dict.fromkeys(key for row in objects for key in row))
        candidates = [key for key in columns if _holds_text(row.get(key) for row in objects)]
        column = text_column(columns, candidates, name, text_field)
    return [
        _cell_text(row.get(column) if isinstance(row, dict) else row, column, f"{name}:{number}")
        for number, row in enumerate(rows, start=1)
    ]


def arrow_texts(table: "pyarrow.Table", name: str, text_field: str | None) -> list[str]:
    """The text of each row of an Arrow table, as `row_texts` gives it."""
    import pyarrow

    def is_text(kind: Any) -> bool:
        return bool(pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))

    candidates = [field.name for field in table.schema if is_text(field.type)]
    column = text_column(table.column_names, candidates, name, text_field)
    return [
        _cell_text(cell, column, f"{name}:{number}")
        for number, cell in enumerate(table.column(column).to_pylist(), start=1)
    ]


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


def _holds_text(cells: Iterable[Any]) -> bool:
    kinds = {type(cell) for cell in cells if cell is not None}
    return kinds == {str}


def _cell_text(cell: Any, column: str, place: str) -> str:
    if cell is None:
        return ""
    if not isinstance(cell, str):
        raise InputError(
            f"{place}: column {column!r} holds a {type(cell).__name__}, not text: "
            "choose another with --text_field"
        )
    # JSON can escape half of a surrogate pair, which no encoder or tokenizer accepts.
    return cell.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
