"""Which column of a table is its text, and what is in it: one row, one text.

A table is not held in memory: its rows are gone through until the column is clear, most often no
further than the first, and then once for the texts.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from minifinetuning.data.readers.text_files import Note
from minifinetuning.errors import InputError

_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
_SENTENCE = 6
"""Letters of scripts without spaces from which on they are more than one word."""

Row = str | dict[str, Any]

Texts = Callable[[], Iterator[str]]
"""Gives the texts of a table, a row each, from the first one on at each call."""


def row_texts(
    read: Callable[[], Iterable[Row]],
    name: str,
    text_field: str | None,
    note: Note,
    is_csv: bool = False,
) -> Texts:
    """The text of each row: the row itself where it is a string, else its text column.

    `read` gives the rows anew at each call; they are gone through until they decide the column, as
    `text_column` does. A missing or null cell gives an empty text. Raises InputError where there is
    no such column, and, while texts are read, where a cell of it is no text, or, at the end, where
    most rows have text in other columns alone.
    """
    column = _row_column(read(), name, text_field, note, is_csv)

    def texts() -> Iterator[str]:
        number = others = 0
        names: dict[str, None] = {}
        for number, row in enumerate(read(), start=1):
            if isinstance(row, dict) and column not in row:
                with_text = [key for key, cell in row.items() if holds_text(cell)]
                others += bool(with_text)
                names.update(dict.fromkeys(with_text))
            cell = row.get(column) if isinstance(row, dict) else row
            yield cell_text(cell, column, f"{name}:{number}")
        if others:
            said = f"{others:,} of {number:,} rows have no column {column!r}, but text in "
            said += ", ".join(names)
            if others > number / 2:
                raise InputError(f"{name}: {said}; choose with --text_field, or split the file")
            note(said)

    return texts


def _row_column(
    rows: Iterable[Row], name: str, text_field: str | None, note: Note, is_csv: bool
) -> str:
    """The text column of all rows; no more of them are read than decide it."""
    wanted = "text" if text_field is None else text_field
    kinds: dict[str, set[type]] = {}
    nested: dict[str, None] = {}
    has_objects = False
    for row in rows:
        if not isinstance(row, dict):
            continue
        if wanted in row:
            return wanted
        has_objects = True
        for key, cell in row.items():
            kinds.setdefault(key, set()).update([] if cell is None else [type(cell)])
            if isinstance(cell, (list, dict)) and holds_text(cell):
                nested[key] = None
        # All rows of CSV have the same columns, and all cells are text or missing.
        if is_csv and all(kinds.values()):
            break
    if not has_objects:
        return ""
    candidates = [key for key, found in kinds.items() if found == {str}]
    return text_column([*kinds], candidates, [*nested], name, text_field, note)


def text_column(
    columns: Sequence[str],
    candidates: Sequence[str],
    nested: Sequence[str],
    name: str,
    text_field: str | None,
    note: Note,
) -> str:
    """The column that holds the text: `text_field`, else `text`, else the only one of strings.

    `candidates` are the `columns` that hold strings, `nested` those of lists and objects with text
    inside, beside which no other is taken without being asked for. Raises InputError, listing the
    columns.
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
    if nested:
        raise InputError(
            f"{name} has text within {', '.join(nested)}, which is no column of text: write it as "
            f"a column text, or choose with --text_field one of {', '.join(candidates)}"
        )
    if len(candidates) > 1:
        raise InputError(
            f"{name} has several columns of text: choose with --text_field "
            f"one of {', '.join(candidates)}"
        )
    if len(columns) > 1:
        note(f"the column {candidates[0]!r} taken as the text, the only one that holds text")
    return candidates[0]


def holds_text(value: Any) -> bool:
    """Whether there are words within lists and objects: more than one, unlike in tags."""
    if isinstance(value, str):
        return len(value.split(maxsplit=1)) > 1 or len(_UNSPACED.findall(value)) >= _SENTENCE
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return False
    return any(holds_text(one) for one in value)


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
