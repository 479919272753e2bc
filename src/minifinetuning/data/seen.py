"""Which texts were there before, in few bytes a text."""

import hashlib
from array import array


class SeenTexts:
    """A set of texts that holds 12 to 24 bytes of each: the front of its SHA-256.

        seen.add(text) == (text not in seen)        # and now it is

    Among 10 million texts the chance that any two are taken for one is 3 in a million.
    """

    def __init__(self) -> None:
        # A table of open places: a digest lies at the first free one from its own on.
        self._places = array("Q", bytes(8 << 10))
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, text: str) -> bool:
        """Add the text; whether it was not yet there."""
        digest = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") or 1
        place = _place(self._places, digest)
        if self._places[place]:
            return False
        self._places[place] = digest
        self._count += 1
        if 3 * self._count > 2 * len(self._places):
            self._grow()
        return True

    def _grow(self) -> None:
        larger = array("Q", bytes(16 * len(self._places)))
        for digest in self._places:
            if digest:
                larger[_place(larger, digest)] = digest
        self._places = larger


def _place(places: "array[int]", digest: int) -> int:
    """Where the digest lies, or else the free place for it."""
    last = len(places) - 1
    place = digest & last
    while (held := places[place]) and held != digest:
        place = (place + 1) & last
    return place
