"""Which texts were there before, in few bytes a text."""

import hashlib

import numpy
import numpy.typing

_RECENT = 1 << 14
"""Digests that are held as Python's own integers, of some hundred bytes each."""


class SeenTexts:
    """A set of texts that holds 8 bytes of each: the front of its SHA-256.

        seen.add(text) == (text not in seen)        # and now it is

    Among 10 million texts the chance that any two are taken for one is 3 in a million.
    """

    def __init__(self) -> None:
        self._recent: set[int] = set()
        # Sorted, each more than twice as long as the one behind it, so that they are few.
        self._runs: list[numpy.typing.NDArray[numpy.uint64]] = []

    def add(self, text: str) -> bool:
        """Add the text; whether it was not yet there."""
        digest = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
        if digest in self._recent or any(_holds(run, digest) for run in self._runs):
            return False
        self._recent.add(digest)
        if len(self._recent) == _RECENT:
            self._settle()
        return True

    def _settle(self) -> None:
        run = numpy.fromiter(self._recent, numpy.uint64, len(self._recent))
        self._recent.clear()
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = numpy.concatenate([self._runs.pop(), run])
        run.sort()
        self._runs.append(run)


def _holds(run: numpy.typing.NDArray[numpy.uint64], digest: int) -> bool:
    place = int(numpy.searchsorted(run, numpy.uint64(digest)))
    return place < len(run) and int(run[place]) == digest
