"""Lines that many documents have in common: menus, headers, footers, licences.

Where they stand on both sides of a split, the model is measured on what it was trained on.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from minifinetuning.data.documents import Document, SeenTexts
from minifinetuning.data.near_copies import WITHOUT_SPACES
from minifinetuning.data.sources import CODE_ENDINGS, supported_ending

DOCUMENTS = 20
"""In how many documents a line must stand to count as repeated."""

_FEWEST_WORDS, _FEWEST_LETTERS, _FEWEST_LETTERS_WITHOUT_SPACES = 4, 15, 8
_NO_WORD = re.compile(r"[\x00-\x26\x28-\x2c\x2e-\x40\x5b-\x60\x7b-\x7f]")
"""What is in no word of any language: digits, and all signs of ASCII but `'` and `-`."""

_SLOTS = 2**23
_MOST_LINES = 100_000
"""Repeated lines that are told apart; a source that has more repeats most of what it says."""


class RepeatedLines:
    """The documents as they are, whose repeated lines are counted while they are gone through.

        documents_of[line] = sum(line in lines(document) for document in documents)

    for the lines that stand in at least 20 documents, found in a fixed memory.

    Lines are compared without the white space around them. Those of source code are its grammar,
    and so may short ones be elsewhere: only prose counts, see `is_prose`. Each line is
    counted in two tables of bytes by its hash until it is repeated, and from there on by itself.
    Counts are those of the last iteration.
    """

    def __init__(self, documents: Iterable[Document]) -> None:
        self.documents = documents
        self.documents_of: dict[str, int] = {}
        self.characters = 0

    def __iter__(self) -> Iterator[Document]:
        self.documents_of = {}
        self.characters = 0
        self._tables = (bytearray(_SLOTS), bytearray(_SLOTS))
        for document in self.documents:
            self._count(document)
            yield document

    def _count(self, document: Document) -> None:
        self.characters += len(document.text)
        if is_source_code(document):
            return
        for line in {line.strip() for line in document.text.splitlines()}:
            if line in self.documents_of:
                self.documents_of[line] += 1
            elif line and self._times(line) == DOCUMENTS and self._is_told_apart(line):
                self.documents_of[line] = DOCUMENTS

    def _is_told_apart(self, line: str) -> bool:
        return is_prose(line) and len(self.documents_of) < _MOST_LINES

    @property
    def share(self) -> float:
        """The part of all characters that stand in repeated lines, each once a document."""
        repeated = sum(len(line) * times for line, times in self.documents_of.items())
        return repeated / max(1, self.characters)

    @property
    def example(self) -> str:
        """The repeated line that takes most of the text; empty where there is none."""
        return max(self.documents_of, key=lambda n: len(n) * self.documents_of[n], default="")

    def _times(self, line: str) -> int:
        """How often the line has come, up to 20; too often only where others share its slots."""
        digest = hashlib.blake2b(line.encode(), digest_size=8).digest()
        times = DOCUMENTS
        for table, half in zip(self._tables, (digest[:4], digest[4:]), strict=True):
            slot = int.from_bytes(half, "little") % _SLOTS
            table[slot] = min(DOCUMENTS, table[slot] + 1)
            times = min(times, table[slot])
        return times


def is_prose(line: str) -> bool:
    """Whether it says something: four words of 15 letters, or 8 letters where words are not apart.

    A word is letters alone but for what stands around it. `else:`, `return None` and a date are no
    prose, and shorter items of a menu give away too little to count.
    """
    if sum(map(len, WITHOUT_SPACES.findall(line))) >= _FEWEST_LETTERS_WITHOUT_SPACES:
        return True
    parts = (part.strip('.,:;!?()[]"') for part in line.split())
    words = [part for part in parts if any(map(str.isalpha, part)) and not _NO_WORD.search(part)]
    return len(words) >= _FEWEST_WORDS and sum(map(len, words)) >= _FEWEST_LETTERS


def is_source_code(document: Document) -> bool:
    """Whether it is a file of source code, by its ending."""
    return document.row is None and supported_ending(document.file) in CODE_ENDINGS


class WithoutRepeatedLines:
    """The documents, gone through anew each time; each repeated line is left where it is first.

    Source code stays as it is.

    Documents of which nothing is left, or what another one is left with, are left out: `empty` and
    `repeated` count them once an iteration has ended.
    """

    def __init__(self, documents: Iterable[Document], lines: Iterable[str]) -> None:
        self.documents, self.lines = documents, frozenset(lines)
        self.empty = self.repeated = 0

    def __iter__(self) -> Iterator[Document]:
        self.empty = self.repeated = 0
        met: set[str] = set()
        seen = SeenTexts()
        for document in self.documents:
            text = document.text if is_source_code(document) else self._text(document.text, met)
            if not text.strip():
                self.empty += 1
            elif seen.add(text.strip()):
                yield replace(document, text=text)
            else:
                self.repeated += 1

    def _text(self, text: str, met: set[str]) -> str:
        """The text without the repeated lines that were `met`, which takes up the others."""
        kept = []
        for line in text.splitlines(keepends=True):
            bare = line.strip()
            if bare in met:
                continue
            if bare in self.lines:
                met.add(bare)
            kept.append(line)
        return "".join(kept)
