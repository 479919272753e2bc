"""The rows of CSV files, whatever stands between their cells."""

import csv
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any

from minifinetuning.data.readers.tables import Note, Row
from minifinetuning.data.readers.text_files import LONGEST_LINE
from minifinetuning.errors import InputError

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}

_SENTENCE = 3
"""Words of the shortest sentence."""
_DECIDING_ROWS = 100
_DECIDING_CHARACTERS = 1 << 18


def csv_rows(
    lines: Iterable[str],
    name: str,
    text_field: str | None,
    note: Note,
    delimiter: str = ",",
    has_quotes: bool = True,
) -> Iterator[Row]:
    """The rows of a CSV file whose first line is the header.

    A single column whose first line is a sentence has no header, unless `text_field` says one.
    Raises InputError, naming file and line, where quotes or the number of cells are wrong, or where
    two columns are called as the text is.
    """
    reader = csv.reader(
        lines,
        strict=True,
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if has_quotes else csv.QUOTE_NONE,
    )
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
            f"{DELIMITERS[delimiter]}s, quotes or line breaks in double quotes"
        ) from None


def has_csv_quotes(lines: Iterable[str], name: str, delimiter: str) -> bool:
    """Whether quotation marks enclose cells, as in CSV, or could not do so where they stand."""
    try:
        for _ in csv_rows(lines, name, None, lambda _: None, delimiter):
            pass
    except InputError:
        return False
    return True


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


def csv_delimiter(lines: Iterable[str], name: str) -> str:
    """What stands between the cells: that which the header and the first rows have alike.

        alike = {d for d in DELIMITERS if the first rows, cut at d, have as many cells, above 1}

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
    cells = {delimiter: _cells(front, delimiter) for delimiter in DELIMITERS}
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
