"""Any source to documents: files, folders, patterns, saved datasets and datasets of the hub."""

import glob
import gzip
import hashlib
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minifinetuning.data.markup import visible_text
from minifinetuning.data.tables import arrow_texts, csv_rows, json_lines_rows, json_rows, row_texts
from minifinetuning.errors import InputError

_PAGE_ENDINGS = (".txt", ".md", ".rst", ".html", ".htm")
_TABLE_ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet")
_ENDINGS = _PAGE_ENDINGS + _TABLE_ENDINGS
_SUPPORTED = ", ".join(_ENDINGS)
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?(:[^:/\\]+)?", re.ASCII)

_Place = Path | str
"""A file or the folder of a saved dataset (Path), or the hub id of a dataset (str)."""


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


def read_documents(
    sources: Sequence[str], text_field: str | None = None, skip_unreadable: bool = False
) -> Documents:
    """The documents of all sources in order, without empty and exactly repeated ones.

    A source is a file, a folder (recursive, hidden files ignored), a glob pattern, a folder made
    by `datasets.save_to_disk`, or a dataset id `owner/name` or `owner/name:config`. Text files and
    HTML pages are one document each; a row of a table (.jsonl, .jsonl.gz, .json, .csv, .parquet,
    a dataset) is one document: its column `text_field`, else `text`, else its only text column.
    Texts that differ in the white space around them alone count as repeated.

    Raises InputError where a source does not exist, a table is malformed or its text column is
    not clear, a file is not UTF-8 (unless `skip_unreadable`), or nothing with text is left.
    """
    if isinstance(sources, str):
        raise InputError(f"sources must be a list of strings: pass [{sources!r}]")
    places = [place for source in sources for place in _places(source)]
    found: list[Document] = []
    unreadable: dict[str, str] = {}
    for place in places:
        try:
            found += _place_documents(place, text_field)
        except _UnreadableError as error:
            unreadable[str(place)] = str(error)
    if unreadable and not skip_unreadable:
        raise InputError(_unreadable_message(unreadable))
    documents = _distinct(found, list(unreadable))
    if not documents.items:
        named = ", ".join(sources) or "an empty list of sources"
        raise InputError(f"no documents with text in {named}; supported: {_SUPPORTED}")
    return documents


class _UnreadableError(Exception):
    """The file is no UTF-8 text; the message is the short reason."""


def _unreadable_message(unreadable: dict[str, str]) -> str:
    named = ", ".join(f"{path} ({reason})" for path, reason in list(unreadable.items())[:5])
    more = f" and {len(unreadable) - 5} more" if len(unreadable) > 5 else ""
    return (
        f"cannot read as UTF-8 text: {named}{more}; "
        "convert to UTF-8, or pass --skip_unreadable to leave such files out"
    )


def _distinct(found: list[Document], skipped: list[str]) -> Documents:
    items = []
    seen = set()
    empty = 0
    for document in found:
        text = document.text.strip()
        digest = hashlib.sha256(text.encode()).digest()
        if not text:
            empty += 1
        elif digest not in seen:
            seen.add(digest)
            items.append(document)
    return Documents(items, empty, len(found) - empty - len(items), skipped)


def _places(source: str) -> list[_Place]:
    path = os.path.expanduser(source)
    if os.path.isdir(path):
        return _folder_places(path)
    if os.path.exists(path):
        if not _is_supported(path):
            raise InputError(f"{source} is not of a supported kind: convert to one of {_SUPPORTED}")
        return [Path(path)]
    if re.search(r"[*?[]", path):
        matches = sorted(Path(match) for match in glob.glob(path, recursive=True))
        places: list[_Place] = [m for m in matches if m.is_file() and _is_supported(m.name)]
        if not places:
            raise InputError(f"{source} matches no file of a supported kind: {_SUPPORTED}")
        return places
    if not _HUB_ID.fullmatch(source) or _is_supported(source):
        raise InputError(f"{source!r} does not exist: check the path")
    return [source]


def _folder_places(root: str) -> list[_Place]:
    paths: list[Path] = []
    for folder, folders, names in os.walk(root):
        if {"dataset_info.json", "state.json"} <= set(names) or "dataset_dict.json" in names:
            paths.append(Path(folder))
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [
            Path(folder, name) for name in names if _is_supported(name) and not name.startswith(".")
        ]
    if not paths:
        raise InputError(f"the folder {root} holds no file of a supported kind: {_SUPPORTED}")
    return [*sorted(paths)]


def _is_supported(name: str) -> bool:
    return name.lower().endswith(_ENDINGS)


def _place_documents(place: _Place, text_field: str | None) -> list[Document]:
    name = str(place)
    ending = name.lower()
    if isinstance(place, str) or place.is_dir():
        texts = _dataset_texts(place, text_field)
    elif ending.endswith(".parquet"):
        texts = _parquet_texts(place, text_field)
    elif ending.endswith((".html", ".htm")):
        return [Document(visible_text(_content(place)), name)]
    elif ending.endswith(_PAGE_ENDINGS):
        return [Document(_content(place), name)]
    elif ending.endswith(".csv"):
        texts = row_texts(csv_rows(_content(place), name), name, text_field)
    elif ending.endswith(".json"):
        texts = row_texts(json_rows(_content(place), name), name, text_field)
    else:
        texts = row_texts(json_lines_rows(_content(place), name), name, text_field)
    return [Document(text, f"{name}:{row}") for row, text in enumerate(texts, start=1)]


def _content(path: Path) -> str:
    """The text of the file, with one line feed as line end on every system."""
    try:
        content = path.read_bytes()
        if path.name.lower().endswith(".gz"):
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise _UnreadableError(getattr(error, "strerror", None) or "damaged gzip") from None
    if b"\0" in content:
        raise _UnreadableError("binary")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _UnreadableError("not UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _parquet_texts(path: Path, text_field: str | None) -> list[str]:
    import pyarrow
    from pyarrow import parquet

    try:
        return arrow_texts(parquet.ParquetFile(path).read(), str(path), text_field)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError):
        raise _UnreadableError("damaged Parquet") from None


def _dataset_texts(place: _Place, text_field: str | None) -> list[str]:
    dataset = _saved_dataset(place) if isinstance(place, Path) else _hub_dataset(place)
    splits = [dataset]
    if isinstance(dataset, dict):
        splits = [dataset["train"]] if "train" in dataset else [*dataset.values()]
    return [
        text
        for split in splits
        for text in arrow_texts(split.with_format("arrow")[:], str(place), text_field)
    ]


def _saved_dataset(folder: Path) -> Any:
    import datasets

    try:
        return datasets.load_from_disk(str(folder))
    except Exception as error:
        raise InputError(
            f"{folder} looks like a saved dataset but cannot be loaded ({_reason(error)}); "
            "save it again with datasets.save_to_disk"
        ) from error


def _hub_dataset(source: str) -> Any:
    import datasets

    name, _, config = source.partition(":")
    try:
        return datasets.load_dataset(name, config or None, split="train")
    except Exception as error:
        raise InputError(
            f"{source!r} is neither a path nor a dataset that could be loaded ({_reason(error)}); "
            "check the spelling, the network, and that it has a train split"
        ) from error


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
