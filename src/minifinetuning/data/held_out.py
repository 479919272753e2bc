"""Documents that a model is measured on, so that no other text of the run trains it on them."""

import hashlib
from dataclasses import dataclass

import numpy

from minifinetuning.data.near_copies import Signatures, near_copies, signatures


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Identities of documents, and their signatures (D, 128) in the same order."""

    identities: tuple[str, ...]
    signatures: Signatures

    def __len__(self) -> int:
        return len(self.identities)

    def __or__(self, other: "HeldOut") -> "HeldOut":
        """Both together."""
        rows = numpy.concatenate([self.signatures, other.signatures])
        return HeldOut(self.identities + other.identities, rows)

    @property
    def digest(self) -> str:
        """A name of what is held out, for the key of a cache."""
        content = hashlib.sha256(" ".join(self.identities).encode())
        content.update(self.signatures.astype("<u4").tobytes())
        return content.hexdigest()

    def copied(self, documents: Signatures) -> list[bool]:
        """For each of other documents whether it is a near-copy of one of these."""
        return [place is not None for place in near_copies(documents, self.signatures)]

    def met(self, documents: Signatures) -> set[str]:
        """The identities of these that have a near-copy among other documents."""
        found = near_copies(self.signatures, documents)
        pairs = zip(self.identities, found, strict=True)
        return {identity for identity, place in pairs if place is not None}


NOTHING = HeldOut((), signatures([]))
"""Every document may be trained on."""
