"""Training and validation sides of a corpus: exact budgets, and no text on both sides.

The paper (section 3.1) takes 4M tokens for training and 0.5M for validation.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy

from minifinetuning.data.near_copies import NO_SHINGLES, Signatures, groups, near_copies
from minifinetuning.data.tokens import TokenizedDocument
from minifinetuning.errors import InputError

PIECES = 32
"""Documents that validation is made of at least, where the text has as many of like size, and
validation 4,096 tokens: 32 times the shortest piece."""

SHORTEST_PIECE = 128
"""Tokens that a document is cut to at least, where validation is not very small."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Documents that a model is measured on, so that no other text of the run trains it on them.

    By their identities, and their signatures (D, 128) in the same order.
    """

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

    def copies_among(self, identities: Sequence[str], signatures: Signatures) -> list[str]:
        """Those of other documents, by their identities, that are near-copies of one of these."""
        found = near_copies(signatures, self.signatures)
        pairs = zip(identities, found, strict=True)
        return [identity for identity, place in pairs if place is not None]

    def copied_in(self, signatures: Signatures) -> list[str]:
        """The identities of these that have a near-copy among other documents."""
        return HeldOut((), signatures).copies_among(self.identities, self.signatures)


NOTHING = HeldOut((), numpy.zeros((0, len(NO_SHINGLES)), numpy.uint32))
"""Every document may be trained on."""


@dataclass(frozen=True)
class Split:
    """The two sides of a corpus, in the order of the split.

    Near-copies within the validation side are one document there: what they say counts once.
    `held_out` are all its documents; the fronts of `cut` of them are trained on. `left_out` are the
    identities of near-copies of them that are on neither side, and `passed_over` is the number of
    documents that are never trained on. `are_apart` is False where the text is little else than
    near-copies of one another, so that both sides have to hold some.
    """

    train: list[TokenizedDocument]
    validation: list[TokenizedDocument]
    held_out: HeldOut
    cut: int
    left_out: frozenset[str]
    passed_over: int
    are_apart: bool


def split_documents(
    documents: Sequence[TokenizedDocument],
    train_tokens: int = 4_000_000,
    validation_tokens: int = 500_000,
    seed: int = 42,
    *,
    signatures: Mapping[str, Signatures] | None = None,
    never_trained: frozenset[str] = frozenset(),
) -> Split:
    """Some documents, or the ends of long ones, to validation, and the rest to training.

    Validation holds W = min(`validation_tokens`, 10 % of all tokens), and some tokens more where a
    document does not end there. With P = max(W / 32, min(128, W / 2)), in the order of `order_key`:

        documents of up to P tokens    go whole, until they hold their share of W
        longer ones                    are cut, and their ends go: P tokens of each, or W / all of
                                       its tokens where that is more, until they hold theirs

    so that many documents are in it where there are many, in the proportions of the text: 32 of
    like size or more where W is 4,096 or more. Only the shortest front of the order that is enough
    is looked at for this, see `deciding_size`; so validation does not depend on `train_tokens`.

    Training takes what is left of the documents until it holds `train_tokens` tokens, the last one
    cut to meet them exactly; those of `never_trained` (identities) it passes over. A budget of 0
    gives the validation side alone.

    With `signatures` (by identity, see `near_copies`), near-copies fall on one side together:
    groups of more than W / 4 tokens, or W if it must be, to training; and what training would take
    behind that front is left out where it is a near-copy of a validation document.

    Raises InputError where there are no documents, `validation_tokens` is not above zero, or
    `train_tokens` below.
    """
    _require_at_least("validation_tokens", validation_tokens, 1)
    _require_at_least("train_tokens", train_tokens, 0)
    if not documents:
        raise InputError("there are no documents to split: give at least one")
    # One of each identity: a repeated document could otherwise fall on both sides.
    distinct = list({document.identity: document for document in documents}.values())
    distinct.sort(key=lambda document: order_key(document.identity, seed))
    front = shortest_front(distinct, deciding_size(validation_tokens))
    wanted = max(1, min(validation_tokens, total_tokens(front) // 10))
    if signatures is None:
        signatures = {document.identity: NO_SHINGLES for document in distinct}
    units, are_apart = _separable(_units(front, signatures), wanted)
    chosen = _chosen(units, wanted)
    taken = {document.identity: tokens for unit, tokens in chosen for document in unit}
    held_out = HeldOut(tuple(taken), _rows(taken, signatures))
    left_out: frozenset[str] = frozenset()
    if are_apart:
        behind = [document.identity for document in distinct[len(front) :]]
        left_out = frozenset(held_out.copies_among(behind, _rows(behind, signatures)))
    rest = []
    cut = passed_over = 0
    for document in distinct:
        tokens = len(document.token_ids) - taken.get(document.identity, 0)
        if tokens <= 0 or document.identity in left_out:
            continue
        if document.identity in never_trained:
            passed_over += 1
            continue
        if tokens < len(document.token_ids):
            cut += 1
        rest.append(replace(document, token_ids=document.token_ids[:tokens]))
    return Split(
        _beginning(rest, train_tokens),
        [_joined(unit, tokens) for unit, tokens in chosen],
        held_out,
        cut,
        left_out,
        passed_over,
        are_apart,
    )


def order_key(identity: str, seed: int) -> str:
    """The place of a document in the order of the split: SHA-256 of `seed:identity`."""
    return hashlib.sha256(f"{seed}:{identity}".encode()).hexdigest()


@dataclass(frozen=True)
class Extent:
    """How much the first documents must hold: `size` in at least `documents`, or `most` in fewer.

    Both sizes are in tokens or in characters.
    """

    size: int
    documents: int = 1
    most: int = 0

    def is_reached(self, size: int, documents: int) -> bool:
        """Whether so many documents, of that size together, are enough."""
        return size >= self.size and (documents >= self.documents or size >= self.most)

    def scaled(self, factor: int) -> "Extent":
        """The same in units that are so many times smaller."""
        return replace(self, size=factor * self.size, most=factor * self.most)


def deciding_size(validation_tokens: int, train_tokens: int = 0) -> Extent:
    """How many tokens, from the first document on, decide the split of all documents.

    Validation is chosen from ten times its tokens, in 32 documents unless those hold more than
    forty times its tokens. It holds less than twice its tokens, and training the rest.
    """
    size = max(10 * validation_tokens, train_tokens + 2 * validation_tokens)
    return Extent(size, PIECES, max(size, 40 * validation_tokens))


def shortest_front(
    documents: Iterable[TokenizedDocument], wanted: Extent
) -> list[TokenizedDocument]:
    """The fewest of the documents, from the first on, that reach as far; all where they do not."""
    front = []
    tokens = 0
    for document in documents:
        front.append(document)
        tokens += len(document.token_ids)
        if wanted.is_reached(tokens, len(front)):
            break
    return front


def total_tokens(documents: Sequence[TokenizedDocument]) -> int:
    """The number of tokens in the documents, their EOS included."""
    return sum(len(document.token_ids) for document in documents)


Unit = list[TokenizedDocument]
"""Documents that belong on one side: one, or near-copies."""


def _rows(identities: Iterable[str], signatures: Mapping[str, Signatures]) -> Signatures:
    rows = [signatures[identity] for identity in identities]
    return numpy.array(rows, dtype=numpy.uint32).reshape(-1, len(NO_SHINGLES))


def _units(
    documents: Sequence[TokenizedDocument], signatures: Mapping[str, Signatures]
) -> list[Unit]:
    """The documents in their order, near-copies where the first of them is."""
    rows = _rows((document.identity for document in documents), signatures)
    units: dict[int, Unit] = {}
    for document, first in zip(documents, groups(rows), strict=True):
        units.setdefault(first, []).append(document)
    return list(units.values())


def _separable(units: list[Unit], wanted: int) -> tuple[list[Unit], bool]:
    """What validation may take, and whether near-copies stay together: not where all is that."""
    for limit in (wanted // 4, wanted):
        separable = [unit for unit in units if len(unit) == 1 or total_tokens(unit) <= limit]
        if sum(map(total_tokens, separable)) >= 2 * wanted:
            return separable, True
    alone = [[document] for unit in units for document in unit]
    return alone, len(alone) == len(units)


def _chosen(units: list[Unit], wanted: int) -> list[tuple[Unit, int]]:
    """The units of the validation side in order, each with the tokens of it that are taken."""
    shortest = max(1, wanted // PIECES, min(SHORTEST_PIECE, wanted // 2))
    sizes = [total_tokens(unit) for unit in units]
    total = sum(sizes)
    long = [n for n, unit in enumerate(units) if len(unit) == 1 and sizes[n] > shortest]
    share_of_long = wanted * sum(sizes[n] for n in long) // total
    taken: dict[int, int] = {}
    held = 0
    for number in long:
        if held >= share_of_long:
            break
        piece = max(shortest, sizes[number] * wanted // total)
        taken[number] = min(piece, max(shortest, share_of_long - held))
        held += taken[number]
    for number in sorted(set(range(len(units))) - set(long)):
        is_fitting = len(units[number]) == 1 or held + sizes[number] <= wanted + shortest
        if held < wanted and is_fitting:
            taken[number] = sizes[number]
            held += sizes[number]
    return [(units[number], taken[number]) for number in sorted(taken)]


def _joined(unit: Unit, tokens: int) -> TokenizedDocument:
    """The last tokens of a document, or near-copies one after another under the first's name."""
    token_ids = numpy.concatenate([document.token_ids for document in unit])
    return replace(unit[0], token_ids=token_ids[len(token_ids) - tokens :])


def _beginning(documents: Sequence[TokenizedDocument], budget: int) -> list[TokenizedDocument]:
    """The first `budget` tokens: whole documents, the last one cut."""
    beginning = []
    for document in documents:
        if budget <= 0:
            break
        beginning.append(replace(document, token_ids=document.token_ids[:budget]))
        budget -= len(document.token_ids)
    return beginning


def _require_at_least(name: str, tokens: int, least: int) -> None:
    if tokens < least:
        raise InputError(f"--{name} is {tokens}: it must be {least} or above")
