"""The front of the split's order, found in one pass and without holding what lies behind it."""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from minifinetuning.data.documents import Document
from minifinetuning.data.splits import Extent, order_key
from minifinetuning.data.tokens import document_identity


@dataclass(frozen=True)
class Front:
    """The first documents in the order of the split; `is_all` where there are no others."""

    documents: list[Document]
    is_all: bool


def split_front(
    documents: Iterable[Document], seed: int, characters: Extent, end: int = 0
) -> Front:
    """The shortest front of the split's order that reaches as far, or all that there is.

        in_order = sorted(documents, key=lambda document: order_key(identity(document), seed))
        front = in_order[:n], with the smallest n so that their texts reach as far

    Never much more than that is held, however many the documents are. The end of each counts as
    `end` characters: a token that closes it, so that a million short rows are not all held.
    """
    # A heap has its smallest entry on top, and the one to drop is the last in the order.
    heap: list[tuple[int, int, Document]] = []
    held = 0
    is_all = True
    for number, document in enumerate(documents):
        key = int(order_key(document_identity(document.text), seed), 16)
        heapq.heappush(heap, (-key, -number, document))
        held += len(document.text) + end
        while characters.is_reached(held - len(heap[0][2].text) - end, len(heap) - 1):
            held -= len(heapq.heappop(heap)[2].text) + end
            is_all = False
    return Front([document for _, _, document in sorted(heap, reverse=True)], is_all)
