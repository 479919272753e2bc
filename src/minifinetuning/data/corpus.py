"""A corpus ready for training and evaluation, and its figures for a person."""

from dataclasses import dataclass, field

from minifinetuning.data.packing import PackedSequences
from minifinetuning.data.places import listed
from minifinetuning.files import printable


@dataclass(frozen=True)
class CorpusSummary:
    """What was read and what it became; all counts of tokens are of the documents alone.

    `documents` leaves out the `empty` and `repeated` ones; `skipped` counts unreadable files, and
    `left_out`, by ending, all files that were not read. Only `tokenized_documents` of them, holding
    `tokens`, were tokenized: as many as the budgets need. `notes` are sentences for a person.
    """

    sources: list[str]
    documents: int
    empty: int
    repeated: int
    skipped: int
    tokenized_documents: int
    tokens: int
    train_documents: int
    train_tokens: int
    train_sequences: int
    validation_documents: int
    validation_tokens: int
    validation_sequences: int
    sequence_length: int
    left_out: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        left_out = f"left out: {self.empty:,} empty, {self.repeated:,} repeated"
        if self.skipped:
            left_out += f", {self.skipped:,} unreadable files"
        tokenized = f"{self.tokens:,} tokens"
        if self.tokenized_documents < self.documents:
            tokenized += f" in the {self.tokenized_documents:,} that the budgets need"
        named = ", ".join(map(printable, self.sources))
        lines = [f"{named}: {self.documents:,} documents ({left_out}), {tokenized}"]
        if self.train_documents:
            lines.append(
                f"  training: {self.train_documents:,} documents, {self.train_tokens:,} tokens, "
                f"{self.train_sequences:,} sequences"
            )
        lines.append(
            f"  validation: {self.validation_documents:,} documents, "
            f"{self.validation_tokens:,} tokens, {self.validation_sequences:,} sequences "
            f"of {self.sequence_length:,}"
        )
        if self.left_out:
            lines.append(f"  files not read: {listed(self.left_out)}")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


@dataclass(frozen=True)
class Corpus:
    """Packed training (None where only validation was asked for) and validation sequences.

    `validation_identities` are those of the validation documents, see `document_identity`.
    """

    train: PackedSequences | None
    validation: PackedSequences
    summary: CorpusSummary
    validation_identities: frozenset[str] = frozenset()
