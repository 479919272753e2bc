"""A corpus ready for training and evaluation, and its figures for a person."""

from dataclasses import dataclass, field

from minifinetuning.data.packing import PackedSequences
from minifinetuning.data.repeated_lines import DOCUMENTS as REPEATED
from minifinetuning.data.sources import listed
from minifinetuning.data.splits import NOTHING, HeldOut
from minifinetuning.files import printable

LITTLE_VALIDATION = 2_000
"""Tokens of validation below which a figure says little, and a warning says so."""


MUCH_REPEATED = 0.02
"""The part of the characters in repeated lines from which on dropping them is worth a word."""


@dataclass(frozen=True)
class CorpusSummary:
    """What was read and what it became; all counts of tokens are of the documents alone.

    `documents` leaves out the `empty` and `repeated` ones; `skipped` counts unreadable files, and
    `left_out`, by ending, all files that were not read. Only `tokenized_documents` of them, holding
    `tokens`, were tokenized: as many as the budgets need. `notes` are sentences for a person.
    Of the `validation_documents`, near-copies counted as one, `cut_documents` are ends of documents
    whose fronts are for training.

    `near_copies` of the tokenized documents, holding `near_copy_tokens`, have a near-copy among
    them. `left_out_near_copies` were not trained on, since they are some of validation documents;
    but where almost all are near-copies, they are not `are_near_copies_apart`. Of text that is held
    out elsewhere (general text, for the specialized) this one holds `held_out_copies` and
    `held_out_near_copies`, which are not trained on, made from `held_out_met` documents of it.
    `repeated_lines` stand in at least 20 documents; `repeated_line_share` is their part of all
    characters, `repeated_line` the one that takes most of it, and `are_repeated_lines_dropped` says
    whether only the first of each was kept.
    `trained_run_share` is the part of the runs of 24 tokens of validation that stand in any text
    that the run trains on; None where it trains on none, or documents are shorter.
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
    cut_documents: int = 0
    near_copies: int = 0
    near_copy_tokens: int = 0
    are_near_copies_apart: bool = True
    left_out_near_copies: int = 0
    held_out_copies: int = 0
    held_out_near_copies: int = 0
    held_out_met: int = 0
    repeated_lines: int = 0
    repeated_line_share: float = 0.0
    repeated_line: str = ""
    are_repeated_lines_dropped: bool = False
    trained_run_share: float | None = None

    def __str__(self) -> str:
        left_out = f"left out: {self.empty:,} empty, {self.repeated:,} repeated"
        if self.skipped:
            left_out += f", {counted(self.skipped, 'unreadable file')}"
        tokenized = counted(self.tokens, "token")
        if self.tokenized_documents < self.documents:
            tokenized += f" in the {self.tokenized_documents:,} that the budgets need"
        lines = [f"{self._named}: {counted(self.documents, 'document')} ({left_out}), {tokenized}"]
        if self.train_documents:
            lines.append(
                f"  training: {counted(self.train_documents, 'document')}, "
                f"{counted(self.train_tokens, 'token')}, "
                f"{counted(self.train_sequences, 'sequence')}"
            )
        cut = f" ({self.cut_documents:,} cut by position)" if self.cut_documents else ""
        lines.append(
            f"  validation: {counted(self.validation_documents, 'document')}{cut}, "
            f"{counted(self.validation_tokens, 'token')}, "
            f"{counted(self.validation_sequences, 'sequence')} of {self.sequence_length:,}"
        )
        if self.left_out:
            lines.append(f"  files not read: {listed(self.left_out)}")
        notes = (f"  {note}" for note in self.notes)
        return "\n".join([*lines, *notes, *self._leaks()])

    def cautions(self) -> list[str]:
        """A sentence for each thing that makes the figures of this text say little."""
        found = []
        is_little = self.validation_tokens < LITTLE_VALIDATION or self.validation_sequences == 1
        if is_little and self.validation_documents:
            found.append(
                f"{self._named}: validation has only {counted(self.validation_tokens, 'token')} "
                f"({counted(self.validation_documents, 'document')}, "
                f"{counted(self.validation_sequences, 'sequence')}), so its figures say "
                "little: give more text, or raise --validation_tokens if that is the limit"
            )
        if not self.are_near_copies_apart:
            found.append(
                f"{self._named}: almost all documents are near-copies of one another, so that "
                "validation says how well they are remembered: leave copies out, or pass "
                "--drop_boilerplate where pages share their menus"
            )
        return found

    @property
    def _named(self) -> str:
        return ", ".join(map(printable, self.sources))

    def _leaks(self) -> list[str]:
        """What could have been trained on and measured too, a line each."""
        lines = []
        if self.near_copies:
            share = self.near_copy_tokens / self.tokens
            sides = "of one side each" if self.are_near_copies_apart else "on both sides"
            if self.left_out_near_copies:
                sides += f", {self.left_out_near_copies:,} left out"
            lines.append(
                f"  near-copies: {counted(self.near_copies, 'document')}, {share:.1%} of the "
                f"tokens, {sides}"
            )
        if self.held_out_copies or self.held_out_near_copies:
            lines.append(
                f"  not trained on: {counted(self.held_out_copies, 'copy')} and "
                f"{counted(self.held_out_near_copies, 'near-copy')} of what is measured elsewhere"
            )
        if self.repeated_line_share >= 0.001:
            done = ""
            if self.are_repeated_lines_dropped:
                done = " (all but the first dropped)"
            elif self.repeated_line_share >= MUCH_REPEATED:
                done = " (--drop_boilerplate keeps the first of each)"
            lines.append(
                f"  repeated lines: {self.repeated_lines:,} of {REPEATED} documents or more, "
                f"{self.repeated_line_share:.1%} of the characters{done}, such as "
                f'"{_cut(printable(self.repeated_line))}"'
            )
        return lines


def _cut(line: str) -> str:
    return line if len(line) <= 60 else f"{line[:57]}..."


@dataclass(frozen=True)
class Corpus:
    """Packed training (None where only validation was asked for) and validation sequences.

    `held_out` are the validation documents, so that no other text of a run trains on them.
    """

    train: PackedSequences | None
    validation: PackedSequences
    summary: CorpusSummary
    held_out: HeldOut = NOTHING


def counted(count: int, noun: str) -> str:
    """`1 document`, `2,000 documents`, `2 copies`."""
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun[:-1]}ies" if noun.endswith("y") else f"{count:,} {noun}s"
