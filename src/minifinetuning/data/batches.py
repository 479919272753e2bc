"""Sequences to batches: padding, labels, and what a teacher's cache brings along."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from minifinetuning.errors import InputError

__all__ = [
    "DOCUMENT_COLUMN",
    "END_COLUMN",
    "LABEL_MASKS",
    "REPLAY_COLUMN",
    "TEACHER_COLUMN",
    "ForeignCollator",
    "Sequences",
    "collate",
    "model_inputs",
    "normalized",
    "of_predictions",
]

TEACHER_COLUMN = "teacher_"
"""Columns of this beginning hold one row per prediction, (T - 1, ...): see `collate`."""

REPLAY_COLUMN = "is_replay"
"""Whether a sequence is replayed; of a batch: whether all of it is. No column means that it is not.

A plain bool: what a batch is has to be known without waiting for the device.
"""

LABEL_MASKS = ("completion_mask", "assistant_masks")
"""Columns of TRL and of chat templates: 1 where a token is to be learnt, (T,)."""

DOCUMENT_COLUMN, END_COLUMN = "document_number", "is_document_end"
"""Which document of its text each token of a sequence belongs to, and whether it closes it, (T,).

For scores alone: see `of_predictions`. A text without them is taken as a document a sequence, all
of which is text.
"""

_FILLERS = {"input_ids": 0, "attention_mask": 0, "labels": -100}


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


def collate(examples: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Examples, as `normalized` makes them, to a batch of (B, T) tensors.

    Shorter sequences are padded at their end. Columns that begin with `teacher_` come along as
    (B, T - 1, ...), padded with zeros, and `is_replay` as one bool; all others are left out.
    """
    rows = [normalized(example) for example in examples]
    length = max(len(row["input_ids"]) for row in rows)
    batch: dict[str, Any] = {
        name: torch.stack([_padded(row[name], length, filler) for row in rows])
        for name, filler in _FILLERS.items()
    }
    for name in examples[0]:
        if name.startswith(TEACHER_COLUMN):
            batch[name] = torch.stack([_padded(row[name], length - 1, 0) for row in examples])
    return _with_replay(batch, examples)


def _with_replay(batch: dict[str, Any], examples: list[Mapping[str, Any]]) -> dict[str, Any]:
    if any(REPLAY_COLUMN in example for example in examples):
        batch[REPLAY_COLUMN] = all(example.get(REPLAY_COLUMN, False) for example in examples)
    return batch


class ForeignCollator:
    """Another library's collator, which never sees the columns that are ours.

    Its batches need `input_ids` and `labels` (B, T). What a teacher's cache knows is of sequences
    as `collate` makes them, so that the teacher has to be asked live.
    """

    def __init__(self, collator: Callable[[list[dict[str, Any]]], Mapping[str, Any]]) -> None:
        self.collator = collator
        self.tokenizer = getattr(collator, "tokenizer", None)

    def __call__(self, examples: list[Mapping[str, Any]]) -> dict[str, Any]:
        batch = dict(self.collator([model_inputs(example) for example in examples]))
        if missing := {"input_ids", "labels"} - batch.keys():
            raise InputError(
                f"data_collator gives batches without {' and '.join(sorted(missing))}: leave it "
                "out, or give one for causal language models"
            )
        batch["labels"] = batch["labels"].clone()
        batch["labels"][:, 0] = -100
        return _with_replay(batch, examples)


def of_predictions(
    examples: Sequence[Mapping[str, Any]], first: int, length: int
) -> tuple[Tensor, Tensor]:
    """Document numbers and ends of the tokens that a batch of (B, T) predicts, each (B, T - 1).

    `first` is the number of the first example in its text, `length` is T.
    """
    documents, ends = [], []
    for number, example in enumerate(examples, start=first):
        tokens = len(example["input_ids"])
        own = example.get(DOCUMENT_COLUMN, torch.full((tokens,), number))
        is_end = example.get(END_COLUMN, torch.zeros(tokens, dtype=torch.bool))
        documents.append(_padded(torch.as_tensor(own)[1:], length - 1, 0))
        ends.append(_padded(torch.as_tensor(is_end)[1:], length - 1, 0))
    return torch.stack(documents), torch.stack(ends)


def model_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch (or example) as a model takes it: without what is about the loss alone."""
    own = {REPLAY_COLUMN, DOCUMENT_COLUMN, END_COLUMN}
    return {
        name: value
        for name, value in batch.items()
        if not name.startswith(TEACHER_COLUMN) and name not in own
    }


def _padded(values: Tensor, length: int, filler: int) -> Tensor:
    """`values` (n, ...) with fillers up to `length` rows."""
    missing = length - len(values)
    if not missing:
        return values
    return torch.cat([values, values.new_full((missing, *values.shape[1:]), filler)])
