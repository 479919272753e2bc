"""Texts of Arrow tables, batch by batch: Parquet files, saved datasets and those of the hub."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minifinetuning.data.readers.tables import Note, cell_text, holds_text, text_column
from minifinetuning.data.readers.unreadable import UnreadableError
from minifinetuning.data.sources import FileOrDataset
from minifinetuning.errors import InputError
from minifinetuning.files import printable

if TYPE_CHECKING:
    import pyarrow

_BATCH_ROWS = 64


def parquet_texts(path: Path, text_field: str | None, note: Note) -> Iterator[str]:
    """The text of each row of a Parquet file.

    Raises UnreadableError where its text cannot be read to the end, InputError as `text_column`.
    """
    import pyarrow
    from pyarrow import parquet

    name = printable(path)
    try:
        # Read in small pieces: by default a whole row group, often the whole file, is loaded.
        with parquet.ParquetFile(path, buffer_size=1 << 16, pre_buffer=False) as file:

            def front(nested: list[str]) -> "Iterable[pyarrow.RecordBatch]":
                return islice(file.iter_batches(_BATCH_ROWS, columns=nested), 1)

            column = _text_column(file.schema_arrow, front, name, text_field, note)
            # Once through beforehand, so that damage at the end leaves the whole file out.
            for batch in file.iter_batches(_BATCH_ROWS, columns=[column]):
                batch.validate(full=True)
            yield from _texts(file.iter_batches(_BATCH_ROWS, columns=[column]), column, name)
    except (pyarrow.ArrowException, OSError):
        raise UnreadableError("damaged Parquet") from None


def dataset_texts(place: FileOrDataset, text_field: str | None, note: Note) -> Iterator[str]:
    """The text of each row of a saved dataset (a folder) or one of the hub (its id).

    Of several splits `train` is taken, or all where there is none of that name. Raises InputError
    where the dataset cannot be loaded, or as `text_column`.
    """
    dataset = _saved_dataset(place) if isinstance(place, Path) else _hub_dataset(place)
    splits = [dataset]
    if isinstance(dataset, dict):
        splits = [dataset["train"]] if "train" in dataset else [*dataset.values()]
        if "train" in dataset and len(dataset) > 1:
            note(f"the split train taken, not {', '.join(n for n in dataset if n != 'train')}")
    name = printable(place)
    for split in splits:
        front = partial(_batches, split.select(range(min(len(split), _BATCH_ROWS))))
        column = _text_column(split.features.arrow_schema, front, name, text_field, note)
        yield from _texts(_batches(split, [column]), column, name)


def _batches(split: Any, columns: list[str]) -> "Iterable[pyarrow.Table]":
    batches: Iterable[pyarrow.Table] = (
        split.select_columns(columns).with_format("arrow").iter(_BATCH_ROWS)
    )
    return batches


def _text_column(
    schema: "pyarrow.Schema",
    front: "Callable[[list[str]], Iterable[pyarrow.RecordBatch | pyarrow.Table]]",
    name: str,
    text_field: str | None,
    note: Note,
) -> str:
    """The column of text; `front` gives the first rows of columns, of which it may depend."""
    import pyarrow

    def is_text(kind: Any) -> bool:
        return bool(pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))

    candidates = [field.name for field in schema if is_text(field.type)]
    deep = [field.name for field in schema if pyarrow.types.is_nested(field.type)]
    if text_field is not None or "text" in schema.names:
        deep = []
    nested = [key for key in deep for batch in front([key]) if holds_text(batch[key].to_pylist())]
    return text_column(schema.names, candidates, nested, name, text_field, note)


def _texts(
    batches: Iterable["pyarrow.RecordBatch | pyarrow.Table"], column: str, name: str
) -> Iterator[str]:
    cells = (cell for batch in batches for cell in batch.column(column).to_pylist())
    for number, cell in enumerate(cells, start=1):
        yield cell_text(cell, column, f"{name}:{number}")


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
