"""Near-copies among documents: the same text with light edits, found by MinHash.

Two documents are near-copies where two fifths of their shingles are in both: runs of three words,
or of six characters in scripts that put no spaces between words. More is left where one word in ten
was changed; unrelated documents share next to none.
"""

import re
from collections.abc import Iterable, Iterator

import numpy
import numpy.typing
from rensa import RMinHash

Signatures = numpy.typing.NDArray[numpy.uint32]
"""(D, 128): the MinHash of each of D documents."""

Places = numpy.typing.NDArray[numpy.intp]
Keys = numpy.typing.NDArray[numpy.uint64]
Mask = numpy.typing.NDArray[numpy.bool_]

SIMILARITY = 0.4
"""Of two documents that are near-copies: common shingles by all shingles, as MinHash estimates."""

_SEED = 1
_ENTRIES = 128
NO_SHINGLES = numpy.full(_ENTRIES, 2**32 - 1, dtype=numpy.uint32)
"""The signature of a document that is too short; it is a near-copy of none."""

_BAND = 4
"""Entries of which all must be equal somewhere, in one of 32 bands, for two to be compared."""

_NEIGHBOURS = 3
"""With how many documents of an equal band one is compared at most."""

_WORDS = 3
_CHARACTERS = 6
_LONGEST_WORD = 24
"""In characters; what is longer is no word: an address, a number, a script that we do not know."""

_FEWEST_SHINGLES = 10
"""Shorter documents are compared with none: what they share may be a form."""

_PART = 2**20
"""Characters that are cut into shingles at once; what spans two parts is not looked at."""

_PAIRS_AT_ONCE = 2**15

# Scripts that put no spaces between words: what stands between spaces there is no word.
_RANGES = (
    "\u0e00-\u0fff"  # Thai, Lao, Tibetan
    "\u1000-\u109f"  # Burmese
    "\u1780-\u17ff"  # Khmer
    "\u1950-\u19ff\u1a20-\u1aaf"  # Tai Le, New Tai Lue, Tai Tham
    "\u1b00-\u1b7f\ua980-\ua9df"  # Balinese, Javanese
    "\ua9e0-\ua9ff\uaa60-\uaadf"  # more Burmese, Tai Viet
    "\u2e80-\u312f\u3190-\u4dbf"  # Kana, Bopomofo, radicals and punctuation of Chinese
    "\u4e00-\u9fff\ua000-\ua4cf"  # Han, Yi
    "\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef"  # compatible, full and half width forms
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff"  # old Kana, rare Han
)

WITHOUT_SPACES = re.compile(f"[{_RANGES}]+")
"""Letters and punctuation of such scripts, as many as stand together."""


def signatures(texts: Iterable[str]) -> Signatures:
    """The signature of each text, (D, 128); that of no shingles where it is too short."""
    # Row by row: as Python's integers a million of them take nine times as much.
    row = numpy.dtype((numpy.uint32, _ENTRIES))
    return numpy.fromiter(map(_signature, texts), dtype=row)


def groups(documents: Signatures) -> list[int]:
    """For each document the first one of its group: near-copies, and near-copies of those.

        same group: near(a, b), or near(a, c) and c and b are of the same group

    A document without near-copies is a group of its own.
    """
    firsts = list(range(len(documents)))

    def first(document: int) -> int:
        while firsts[document] != document:
            firsts[document] = firsts[firsts[document]]
            document = firsts[document]
        return document

    for band, keys in enumerate(_keys(documents)):
        known = numpy.array(firsts)
        # Of an equal band those come together that are equal in what follows it.
        order = numpy.lexsort((documents[:, (band + 1) * _BAND % _ENTRIES], keys))
        for offset in range(1, _NEIGHBOURS + 1):
            one, other = order[:-offset], order[offset:]
            # Most pairs are those of an earlier band.
            new = (keys[one] == keys[other]) & (known[one] != known[other])
            one, other = one[new], other[new]
            alike = _are_alike(documents, one, documents, other)
            for pair in zip(one[alike].tolist(), other[alike].tolist(), strict=True):
                a, b = first(pair[0]), first(pair[1])
                firsts[max(a, b)] = min(a, b)
        firsts = [first(document) for document in range(len(documents))]
    return firsts


def near_copies(documents: Signatures, others: Signatures) -> list[int | None]:
    """For each document the place of one of the others that it is a near-copy of, or None."""
    found = numpy.full(len(documents), -1)
    for own, their in zip(_keys(documents), _keys(others), strict=True):
        order = numpy.argsort(their, kind="stable")
        front = numpy.searchsorted(their[order], own)
        for offset in range(_NEIGHBOURS + 1):
            (one,) = numpy.nonzero((found < 0) & (front + offset < len(others)))
            other = order[front[one] + offset]
            equal = own[one] == their[other]
            one, other = one[equal], other[equal]
            alike = _are_alike(documents, one, others, other)
            found[one[alike]] = other[alike]
    return [None if place < 0 else place for place in found.tolist()]


def _signature(text: str) -> list[int]:
    minhash = RMinHash(_ENTRIES, _SEED)
    for start in range(0, len(text), _PART):
        shingles = _shingles(text[start : start + _PART])
        if start or len(shingles) >= _FEWEST_SHINGLES:
            minhash.update(shingles)
    digest: list[int] = minhash.digest()
    return digest


def _shingles(text: str) -> set[str]:
    """Runs of three words in lower case, and of six characters within what is no word.

    Scripts that put no spaces between words are one string: white space there breaks lines, and
    sets off phrases.
    """
    text = text.lower()
    unspaced = "" if text.isascii() else "".join(WITHOUT_SPACES.findall(text))
    shingles = _runs_of_characters(unspaced)
    words: list[str] = []
    for word in (WITHOUT_SPACES.sub(" ", text) if unspaced else text).split():
        if len(word) > _LONGEST_WORD:
            shingles |= _runs_of_characters(word)
        # Beside such a script commas and the like stand alone.
        elif not unspaced or any(map(str.isalnum, word)):
            words.append(word)
    runs = zip(*(words[start:] for start in range(_WORDS)), strict=False)
    shingles.update(map(" ".join, runs))
    return shingles


def _runs_of_characters(text: str) -> set[str]:
    return {text[end - _CHARACTERS : end] for end in range(_CHARACTERS, len(text) + 1)}


def _keys(documents: Signatures) -> Iterator[Keys]:
    """Band by band a number for each document, (D,): equal where all entries of the band are."""
    for start in range(0, _ENTRIES, _BAND):
        keys = numpy.zeros(len(documents), numpy.uint64)
        for entry in documents[:, start : start + _BAND].T:
            keys = (keys ^ entry) * numpy.uint64(0x9E3779B97F4A7C15)
            keys ^= keys >> numpy.uint64(29)
        yield keys


def _are_alike(documents: Signatures, one: Places, others: Signatures, other: Places) -> Mask:
    """(P,): whether documents[one[p]] and others[other[p]] are near-copies, for each pair p."""
    alike = numpy.zeros(len(one), dtype=bool)
    for start in range(0, len(one), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        left, right = documents[one[part]], others[other[part]]
        is_signed = (left != NO_SHINGLES).any(axis=1)
        alike[part] = is_signed & ((left == right).mean(axis=1) >= SIMILARITY)
    return alike
