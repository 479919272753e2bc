"""Datasets of token sequences: what an example holds, and whether a model can train on them."""

from collections.abc import Iterator, Mapping, Sized
from typing import Any, Protocol

import pyarrow.compute
import torch
from torch import Tensor

from minifinetuning.errors import InputError

TEACHER_COLUMN = "teacher_"
"""Columns of this beginning hold one row per prediction, (T - 1, ...): see `collate`."""

REPLAY_COLUMN = "is_replay"
"""Whether a sequence is replayed. No column means that it is not."""

REPLAYED_ROWS = "replayed_rows"
"""Of a batch: how many of its rows are replayed, which are its last. No column means that none is.

A plain number: what a batch is has to be known without waiting for the device.
"""

LABEL_MASKS = ("completion_mask", "assistant_masks")
"""Columns of TRL and of chat templates: 1 where a token is to be learnt, (T,)."""

DOCUMENT_COLUMN, END_COLUMN = "document_number", "is_document_end"
"""Which document of its text each token of a sequence belongs to, and whether it closes it, (T,).

For scores alone: see `of_predictions`. A text without them is taken as a document a sequence, all
of which is text.
"""


class Sequences(Protocol):
    """A dataset of token sequences: `PackedSequences`, a `datasets.Dataset`, a list of dicts."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


def normalized(example: Mapping[str, Any]) -> dict[str, Tensor]:
    """`input_ids`, `attention_mask` and `labels`, each (T,) of int64.

    Missing labels are the input ids. Padding, what a mask of `LABEL_MASKS` leaves out, and the
    first token of a sequence, which nothing predicts, get the label -100, so that counting labels
    counts predictions. Raises InputError for what is no sequence of tokens, and for sequences of
    several texts with positions of their own, which would see one another here.
    """
    _require_one_sequence(example)
    tokens = torch.as_tensor(example["input_ids"]).long()
    mask = torch.as_tensor(example.get("attention_mask", torch.ones_like(tokens))).long()
    labels = torch.as_tensor(example.get("labels", tokens)).long()
    _require_one_length(len(tokens), {"labels": labels, "attention_mask": mask})
    labels = labels.masked_fill(mask == 0, -100)
    for name in LABEL_MASKS:
        if name in example:
            _require_one_length(len(tokens), {name: example[name]})
            labels = labels.masked_fill(torch.as_tensor(example[name]) == 0, -100)
    labels[0] = -100
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


def _require_one_sequence(example: Mapping[str, Any]) -> None:
    """Raise InputError where the example holds no tokens yet, or several texts in one."""
    if not isinstance(example, Mapping):
        what = "a text" if isinstance(example, str) else f"a {type(example).__name__}"
        raise InputError(
            f"an example is {what} and no dict of input_ids: "
            "tokenize texts first, [{'input_ids': tokenizer(text)['input_ids']} for text in texts]"
        )
    if "input_ids" not in example:
        raise InputError(
            f"an example has the columns {', '.join(map(str, example))} and no input_ids: "
            + _how_to_tokenize(example)
        )
    if len(example["input_ids"]) == 0:
        raise InputError("an example has no tokens, its input_ids are empty: leave it out")
    positions = example.get("position_ids")
    if positions is not None:
        found = torch.as_tensor(positions)
        if not torch.equal(found, torch.arange(len(found), device=found.device)):
            raise InputError(
                "position_ids that do not count 0, 1, 2, … through a sequence are not followed "
                "here: give each text as a sequence of its own, or remove the column"
            )
    lengths = example.get("seq_lengths")
    if lengths is not None and len(lengths) > 1:
        raise InputError(
            "seq_lengths says that several texts are packed into one sequence, which would see one "
            "another here: give each text as a sequence of its own, or remove the column"
        )


def _require_one_length(tokens: int, columns: Mapping[str, Any]) -> None:
    for name, values in columns.items():
        if len(values) != tokens:
            raise InputError(
                f"an example has {tokens:,} input_ids and {len(values):,} {name}: give one for "
                "each token"
            )


def _how_to_tokenize(example: Mapping[str, Any]) -> str:
    if "messages" in example or "conversations" in example:
        column = "messages" if "messages" in example else "conversations"
        return (
            "tokenize the conversations first, with dataset.map(lambda row: tokenizer."
            f'apply_chat_template(row["{column}"], return_dict=True, '
            "return_assistant_tokens_mask=True))"
        )
    if "text" in example:
        return (
            "read texts from files with read_corpus, or tokenize them first, with "
            'dataset.map(lambda row: tokenizer(row["text"]))'
        )
    return "tokenize it first, or read texts from files with read_corpus"


def require_sequences(text: object, name: str) -> None:
    """Raise InputError, naming the text, where it holds no sequence with a token to predict.

    Of a text without length or places, which can be gone through once, nothing is asked.
    """
    if not (isinstance(text, Sized) and hasattr(text, "__getitem__")):
        return
    if len(text) == 0:
        raise InputError(f"{name} holds no sequences: give at least one")
    try:
        is_of_use = predicts_text(text)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    if not is_of_use:
        raise InputError(
            f"{name} has no token to predict: in every sequence all labels are -100, or there is "
            "one token alone; give longer sequences, or labels"
        )


def predicts_text(text: Any) -> bool:
    """Whether a token of text, neither the first of its sequence nor an end, has a label."""
    for index in range(len(text)):
        example = text[index]
        labels = normalized(example)["labels"]
        is_end = torch.as_tensor(example.get(END_COLUMN, torch.zeros(len(labels))))
        if bool((labels.ne(-100) & ~is_end.bool()).any()):
            return True
    return False


def require_lengths(text: object, limit: int | None, name: str) -> None:
    """Raise InputError, naming the text, where a sequence is longer than the model's `limit`."""
    longest = _longest(text)
    if limit is not None and longest > limit:
        raise InputError(
            f"{name} has a sequence of {longest:,} tokens, above the model's limit of {limit:,}: "
            "cut the text into shorter sequences"
        )


def require_embeddings(text: object, rows: int | None, name: str) -> None:
    """Raise InputError, naming the text, where one of its ids is negative or not below `rows`.

    Of a text whose ids would cost a pass over it that may be long, nothing is asked; nor where the
    number of rows is not known.
    """
    if not rows:
        return
    smallest, largest = _extreme_ids(text)
    if smallest < 0:
        raise InputError(
            f"{name} has the token id {smallest:,}: ids count from 0; mark what is not to be "
            "learnt by labels of -100, and padding by attention_mask"
        )
    if largest >= rows:
        raise InputError(
            f"{name} needs the token id {largest:,}, but the model has embeddings for {rows:,} "
            "tokens only: use the tokenizer that belongs to the model, or give the model more by "
            "model.resize_token_embeddings(len(tokenizer))"
        )


def _longest(text: Any) -> int:
    """Tokens of the longest sequence; 0 where knowing it would take a pass that may be long."""
    if isinstance(getattr(text, "stream", None), Tensor):
        return int(text.sequence_length)
    tokens = getattr(text, "tokens", None)
    if isinstance(tokens, Tensor) and tokens.dim() == 2:
        return tokens.shape[1]
    if isinstance(text, (list, tuple)):
        return max(map(len, _ids_of_rows(text)), default=0)
    lengths = [pyarrow.compute.list_value_length(ids) for ids in _ids_of_table(text)]
    return max((pyarrow.compute.max(of_batch).as_py() or 0 for of_batch in lengths), default=0)


def _extreme_ids(text: Any) -> tuple[int, int]:
    """The smallest and the largest token id of a text; 0 for both where they are not known."""
    if isinstance(getattr(text, "stream", None), Tensor):
        extremes = [text.stream.aminmax()] if len(text.stream) else []
    elif isinstance(text, (list, tuple)):
        extremes = [torch.as_tensor(ids).aminmax() for ids in _ids_of_rows(text) if len(ids)]
    else:
        flat = [pyarrow.compute.list_flatten(ids) for ids in _ids_of_table(text)]
        extremes = [pyarrow.compute.min_max(ids).as_py().values() for ids in flat if len(ids)]
    if not extremes:
        return 0, 0
    return min(int(low) for low, _ in extremes), max(int(high) for _, high in extremes)


def _ids_of_rows(rows: Any) -> list[Any]:
    return [row["input_ids"] for row in rows if isinstance(row, Mapping) and "input_ids" in row]


def _ids_of_table(dataset: Any) -> Iterator[Any]:
    """Lists of ids of a `datasets.Dataset`, without a Python object for each; of others nothing."""
    columns = getattr(dataset, "column_names", None)
    is_table = hasattr(dataset, "with_format") and hasattr(dataset, "__len__")
    if is_table and isinstance(columns, list) and "input_ids" in columns:
        batches = dataset.select_columns(["input_ids"]).with_format("arrow").iter(1000)
        for batch in batches:
            yield batch["input_ids"]
