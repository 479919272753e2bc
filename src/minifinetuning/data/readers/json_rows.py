"""The rows of JSON files, whole or with a value a line."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from minifinetuning.data.readers.tables import Note, Row, holds_text
from minifinetuning.errors import InputError


def json_rows(
    content: str, name: str, text_field: str | None, note: Note
) -> tuple[list[Row], str | None]:
    """The rows of a JSON file, and the column of their text that is asked for.

    A list of objects or strings; or one object, which is one row, or holds the rows as the list
    `text_field` (by default `text`).

    Raises InputError, naming file and line, where the JSON is malformed, or where an object holds
    lists with text and nobody said that one of them is meant.
    """
    value = json_value(content, name)
    if isinstance(value, dict):
        wanted = "text" if text_field is None else text_field
        if isinstance(value.get(wanted), list):
            note(f"the list {wanted!r} taken as rows, and nothing else of the file")
            value, text_field = value[wanted], None
        else:
            _require_no_lists(value, wanted, name)
            _require_text(value, wanted, name)
            value = [value]
    if not isinstance(value, list):
        raise InputError(
            f"{name} holds a {type(value).__name__}, not a list of objects or strings: "
            "write it as a list, or as text in a .txt file"
        )
    return [
        _row(item, f"{name}:{number}") for number, item in enumerate(value, start=1)
    ], text_field


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


def _require_no_lists(value: dict[str, Any], wanted: str, name: str) -> None:
    lists = [key for key, cell in value.items() if isinstance(cell, list) and holds_text(cell)]
    if lists and wanted not in value:
        raise InputError(
            f"{name} is one object with text in the list {', '.join(lists)}: name the list that "
            f"holds the documents, as --text_field {lists[0]}, or write them as a list alone"
        )


def _require_text(value: dict[str, Any], wanted: str, name: str) -> None:
    has_settings = any(isinstance(cell, (dict, list, bool)) for cell in value.values())
    if wanted not in value and has_settings and not holds_text(value):
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
