"""Split a stream of documents, holding and tokenizing no more of it than the budgets need."""

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tqdm import tqdm

from minifinetuning.data.documents import Document
from minifinetuning.data.near_copies import Signatures, groups, signatures
from minifinetuning.data.splits import (
    Extent,
    HeldOut,
    Split,
    deciding_size,
    order_key,
    shortest_front,
    split_documents,
    total_tokens,
)
from minifinetuning.data.tokens import TokenizedDocument, document_identity, tokenize_documents

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHARACTERS_PER_TOKEN = 8
"""More than text has in almost any language and vocabulary: English has 4 to 5."""


@dataclass(frozen=True, eq=False)
class StreamSplit:
    """A split, and the tokenized documents that it is made from with their signatures (D, 128).

    `copies` are the identities of documents, of the whole stream, that are held out elsewhere.
    `held_out_near_copies` is the number of tokenized ones that are near-copies of such.
    """

    split: Split
    documents: list[TokenizedDocument]
    signatures: Signatures
    copies: set[str]
    held_out_near_copies: int

    def near_copies(self) -> list[TokenizedDocument]:
        """The documents that have a near-copy among the others."""
        of_group = groups(self.signatures)
        sizes = Counter(of_group)
        pairs = zip(self.documents, of_group, strict=True)
        return [document for document, group in pairs if sizes[group] > 1]


def split_stream(
    documents: Iterable[Document],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    train_tokens: int,
    validation_tokens: int,
    seed: int,
    held_out: HeldOut,
    progress: bool = False,
) -> StreamSplit:
    """`split_documents` of all documents, from the first ones of its order alone.

    Training passes over what is `held_out` elsewhere, and over near-copies of it. The documents are
    gone through once more where those that were kept turn out to hold too little.
    """
    tokens_to_read, characters_per_token = train_tokens, _CHARACTERS_PER_TOKEN
    exact = frozenset(held_out.identities)
    while True:
        wanted = deciding_size(validation_tokens, tokens_to_read)
        first = first_in_order(
            tqdm(documents, "reading", unit=" documents", leave=False, disable=not progress),
            seed,
            wanted.scaled(characters_per_token),
            end=characters_per_token,
            sought=exact,
        )
        tokenized = shortest_front(tokenize_documents(first.documents, tokenizer, progress), wanted)
        is_all = first.is_all and len(tokenized) == len(first.documents)
        if not is_all and not wanted.is_reached(total_tokens(tokenized), len(tokenized)):
            # Characters in long tokens.
            characters_per_token *= 4
            continue
        # What lies behind is not needed any more, and is most of the memory held.
        del first.documents[len(tokenized) :]
        rows = signatures(document.text for document in first.documents)
        identities = [document.identity for document in tokenized]
        near = frozenset(held_out.copies_among(identities, rows))
        split = split_documents(
            tokenized,
            train_tokens,
            validation_tokens,
            seed,
            signatures=dict(zip(identities, rows, strict=True)),
            never_trained=exact | near,
        )
        if is_all or total_tokens(split.train) >= train_tokens:
            return StreamSplit(split, tokenized, rows, first.sought, len(near - exact))
        # Much of what was kept is copies, which are not trained on.
        tokens_to_read *= 2


@dataclass(frozen=True)
class FirstDocuments:
    """The first documents in the order of the split; `is_all` where there are no others.

    `sought` are those of the identities asked for that any document has, also a later one.
    """

    documents: list[Document]
    is_all: bool
    sought: set[str]


def first_in_order(
    documents: Iterable[Document],
    seed: int,
    characters: Extent,
    end: int = 0,
    sought: frozenset[str] = frozenset(),
) -> FirstDocuments:
    """The fewest documents, from the first in the split's order on, that reach as far, or all.

        in_order = sorted(documents, key=lambda document: order_key(identity(document), seed))
        first = in_order[:n], with the smallest n so that their texts reach as far

    Never much more than that is held, however many the documents are. The end of each counts as
    `end` characters: a token that closes it, so that a million short rows are not all held.
    """
    # A heap has its smallest entry on top, and the one to drop is the last in the order.
    heap: list[tuple[int, int, Document]] = []
    held = 0
    is_all = True
    found = set()
    for number, document in enumerate(documents):
        identity = document_identity(document.text)
        if identity in sought:
            found.add(identity)
        heapq.heappush(heap, (-int(order_key(identity, seed), 16), -number, document))
        held += len(document.text) + end
        while characters.is_reached(held - len(heap[0][2].text) - end, len(heap) - 1):
            held -= len(heapq.heappop(heap)[2].text) + end
            is_all = False
    first = [document for _, _, document in sorted(heap, reverse=True)]
    return FirstDocuments(first, is_all, found)
