"""A fair sample of a dataset of many large files, of which little is read.

Such datasets are ordered: Pile of Law has a file or more for each source, so that its first
millions of tokens are of one source only. So files are drawn, each with a probability in
proportion to its size, and of those drawn the front is read.

A stream of `datasets`, shuffled, would not do: it mixes the few files that it has open, and other
ones under another version of the library. Stopped in a Parquet file, its threads read on, four
times as many bytes, and can keep the process from ending (compare apache/arrow#45214).
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from minifinetuning.data.documents import Document
from minifinetuning.data.readers.columns import cell_text
from minifinetuning.data.readers.tables import json_lines_rows
from minifinetuning.data.tokens import document_identity, tokenize_documents
from minifinetuning.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["LONGEST", "PORTION", "SEED", "sampled_documents"]

SEED = 42

PORTION = 100_000
"""Tokens for each time that a file is drawn: 90 draws for 9M tokens, of each some MB are read."""

LONGEST = 250_000
"""Characters of a document that are taken, about 60,000 tokens: Pile of Law has rows of 20 MB."""


@dataclass(frozen=True)
class _File:
    """A file of a dataset: its size in bytes, and what reads its texts from the first one on."""

    name: str
    size: int
    texts: Callable[[], Iterator[str]]


def sampled_documents(
    pattern: str, text_field: str, tokenizer: "PreTrainedTokenizerBase", tokens: int
) -> Iterator[tuple[Document, int]]:
    """Distinct documents, and how many tokens each has with its EOS, until they hold `tokens`.

        drawn = Counter(choices(files, weights=sizes, k=ceil(tokens / PORTION)))
        for file in drawn: its first documents, until they hold drawn[file] * PORTION tokens

    Tokens are as `tokenize_documents` counts them. The last document is whole, and so may exceed
    `tokens`. What a file exceeds or lacks is made up for by the next, and at last by any that has
    more. `pattern` names Parquet files or JSON lines, packed or not, local or at a URL that fsspec
    knows, such as hf://. One file is open at a time. Raises InputError where a row is damaged or
    all files hold less than `tokens`; and whatever fsspec raises where they cannot be reached.
    """
    held = due = 0
    seen = {document_identity("")}
    for file, portions in _drawn(_files(pattern, text_field), tokens):
        due = min(due + portions * PORTION, tokens)
        texts = enumerate(file.texts(), start=1)
        while held < due and (found := next(texts, None)):
            row, text = found
            document = Document(text[:LONGEST], f"{file.name}:{row}")
            # What the product leaves out as empty or repeated must not count here.
            identity = document_identity(document.text.strip())
            if identity not in seen:
                seen.add(identity)
                [tokenized] = tokenize_documents([document], tokenizer)
                held += len(tokenized.token_ids)
                yield document, len(tokenized.token_ids)
    if held < tokens:
        raise InputError(
            f"{pattern} holds only {held:,} of the {tokens:,} tokens that are needed: "
            "pass --corpora DIR with more text"
        )


def _drawn(files: list[_File], tokens: int) -> Iterator[tuple[_File, int]]:
    """The files in the order drawn, and how often each was; then all again, as none."""
    source = random.Random(SEED)
    places = range(len(files))
    draws = source.choices(places, [file.size for file in files], k=math.ceil(tokens / PORTION))
    portions = Counter(draws)
    for place in [*portions, *source.sample(places, len(files))]:
        yield files[place], portions.pop(place, 0)


def _files(pattern: str, text_field: str) -> list[_File]:
    from fsspec.core import url_to_fs

    system, places = url_to_fs(pattern)
    found = system.glob(places, detail=True)
    if not found:
        raise FileNotFoundError(f"{pattern} matches no file")
    texts = _parquet_texts if pattern.endswith(".parquet") else _json_texts
    return [
        _File(place, found[place]["size"], partial(texts, system, place, text_field))
        for place in sorted(found)
    ]


def _json_texts(system: Any, place: str, text_field: str) -> Iterator[str]:
    with system.open(place, "rt", compression="infer", encoding="utf-8") as lines:
        for number, row in enumerate(json_lines_rows(lines, place), start=1):
            cell = row.get(text_field) if isinstance(row, dict) else row
            yield cell_text(cell, text_field, f"{place}:{number}")


def _parquet_texts(system: Any, place: str, text_field: str) -> Iterator[str]:
    from pyarrow import parquet

    # Neither threads that read ahead nor a whole row group at once.
    with (
        system.open(place, "rb") as file,
        parquet.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False) as table,
    ):
        batches = table.iter_batches(64, columns=[text_field], use_threads=False)
        cells = (cell for batch in batches for cell in batch.column(text_field).to_pylist())
        for number, cell in enumerate(cells, start=1):
            yield cell_text(cell, text_field, f"{place}:{number}")
