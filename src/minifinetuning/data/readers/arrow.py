"""Texts of Arrow tables, batch by batch: Parquet files, saved datasets and those of the hub."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from minifinetuning.data.readers.columns import Texts, cell_text, holds_text, text_column
from minifinetuning.data.readers.text_files import Note, UnreadableError
from minifinetuning.data.sources import FileOrDataset
from minifinetuning.errors import InputError
from minifinetuning.files import printable

_BATCH_ROWS = 64


def parquet_table(path: Path, text_field: str | None, note: Note) -> Texts:
    """The texts of a Parquet file.

    Raises UnreadableError where it is damaged, at its end too, and InputError as `text_column`.
    """
    with _parquet(path) as file:
        schema = file.schema_arrow

    def batches(columns: list[str]) -> Iterator[Any]:
        with _parquet(path) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
                batch.validate(full=True)
                yield batch

    return _column_texts(schema, batches, printable(path), text_field, note)


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow
    from pyarrow import parquet

    try:
        # Read in small pieces: by default a whole row group, often the whole file, is loaded.
        with parquet.ParquetFile(path, buffer_size=1 << 16, pre_buffer=False) as file:
            yield file
    except (pyarrow.ArrowException, OSError):
        raise UnreadableError("damaged Parquet") from None


def dataset_table(source: FileOrDataset, text_field: str | None, note: Note) -> Texts:
    """The texts of a saved dataset (a folder) or one of the hub (its id).

    Of several splits `train` is taken, or all where there is none of that name. Raises InputError
    where the dataset cannot be loaded, or as `text_column`.
    """
    dataset = _saved_dataset(source) if isinstance(source, Path) else _hub_dataset(source)
    splits = [dataset]
    if isinstance(dataset, dict):
        splits = [dataset["train"]] if "train" in dataset else [*dataset.values()]
        if "train" in dataset and len(dataset) > 1:
            note(f"the split train taken, not {', '.join(n for n in dataset if n != 'train')}")
    parts = []
    for split in splits:
        schema, batches = split.features.arrow_schema, partial(_batches, split)
        parts.append(_column_texts(schema, batches, printable(source), text_field, note))
    return lambda: chain.from_iterable(part() for part in parts)


def _batches(split: Any, columns: list[str]) -> Iterator[Any]:
    return iter(split.select_columns(columns).with_format("arrow").iter(_BATCH_ROWS))


def _column_texts(
    schema: Any,
    batches: Callable[[list[str]], Iterator[Any]],
    name: str,
    text_field: str | None,
    note: Note,
) -> Texts:
    """The texts of the text column; `batches` gives the Arrow batches of columns, at each call."""
    from pyarrow import types

    strings = [
        field.name
        for field in schema
        if types.is_string(field.type) or types.is_large_string(field.type)
    ]
    nested = []
    if text_field is None and "text" not in schema.names:
        for key in (field.name for field in schema if types.is_nested(field.type)):
            first = islice(batches([key]), 1)
            if any(holds_text(batch.column(key).to_pylist()) for batch in first):
                nested.append(key)
    column = text_column(schema.names, strings, nested, name, text_field, note)

    def texts() -> Iterator[str]:
        cells = (cell for batch in batches([column]) for cell in batch.column(column).to_pylist())
        for number, cell in enumerate(cells, start=1):
            yield cell_text(cell, column, f"{name}:{number}")

    return texts


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
