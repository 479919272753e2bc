"""The documents that decide a split, tokenized: no more of a stream than the budgets need."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tqdm import tqdm

from minifinetuning.data.documents import Document
from minifinetuning.data.front import split_front
from minifinetuning.data.held_out import HeldOut
from minifinetuning.data.near_copies import Signatures, groups, signatures
from minifinetuning.data.repeated_lines import RepeatedLines
from minifinetuning.data.splits import Split, enough, sides, total_tokens
from minifinetuning.data.tokens import TokenizedDocument, document_identity, tokenized_batches

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHARACTERS_PER_TOKEN = 8
"""More than text has in almost any language and vocabulary: English has 4 to 5."""


class Watched:
    """The documents, gone through anew each time; what is to be known of all of them is noted.

    `copies` are the identities of those that are held out elsewhere, and `lines`, where it is
    given, counts their lines, both once the first iteration has ended.
    """

    def __init__(
        self, documents: Iterable[Document], held_out: HeldOut, lines: RepeatedLines | None
    ) -> None:
        self.documents, self.lines = documents, lines
        self.copies: set[str] = set()
        self._held_out = frozenset(held_out.identities)
        self._is_known = False

    def __iter__(self) -> Iterator[Document]:
        for document in self.documents:
            if not self._is_known:
                self._note(document)
            yield document
        self._is_known = True

    def _note(self, document: Document) -> None:
        if self.lines is not None:
            self.lines.add(document)
        if self._held_out and (identity := document_identity(document.text)) in self._held_out:
            self.copies.add(identity)


@dataclass(frozen=True, eq=False)
class Decided:
    """A split, and the tokenized documents that it is made from with their signatures (D, 128).

    `held_out_near_copies` is the number of those that are near-copies of text held out elsewhere.
    """

    split: Split
    documents: list[TokenizedDocument]
    signatures: Signatures
    held_out_near_copies: int

    def near_copies(self) -> list[TokenizedDocument]:
        """The documents that have a near-copy among the others."""
        of_group = groups(self.signatures)
        sizes = Counter(of_group)
        pairs = zip(self.documents, of_group, strict=True)
        return [document for document, group in pairs if sizes[group] > 1]

    def held_out(self) -> HeldOut:
        """The validation documents, so that no other text trains on them."""
        places = {document.identity: place for place, document in enumerate(self.documents)}
        rows = [places[identity] for identity in self.split.held_out]
        return HeldOut(self.split.held_out, self.signatures[rows])


def decided(
    documents: Iterable[Document],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    train_tokens: int,
    validation_tokens: int,
    seed: int,
    held_out: HeldOut,
    progress: bool = False,
) -> Decided:
    """The split of all documents, from the front of its order alone.

    A training budget of 0 tokens gives the validation side alone. Training passes over what is
    `held_out` elsewhere, and over near-copies of it. The documents are gone through once more where
    the front turns out to hold too little.
    """
    wanted_tokens, characters_per_token = train_tokens, _CHARACTERS_PER_TOKEN
    while True:
        extent = enough(validation_tokens, wanted_tokens)
        read = tqdm(documents, "reading", unit=" documents", leave=False, disable=not progress)
        wanted = extent.scaled(characters_per_token)
        front = split_front(read, seed, wanted, end=characters_per_token)
        tokenized: list[TokenizedDocument] = []
        tokens = 0
        for batch in tokenized_batches(front.documents, tokenizer, progress):
            for document in batch:
                if not extent.is_reached(tokens, len(tokenized)):
                    tokenized.append(document)
                    tokens += len(document.token_ids)
            if extent.is_reached(tokens, len(tokenized)):
                break
        is_all = front.is_all and len(tokenized) == len(front.documents)
        if not is_all and not extent.is_reached(tokens, len(tokenized)):
            # Characters in long tokens.
            characters_per_token *= 4
            continue
        # What lies behind is not needed any more, and is most of the memory held.
        del front.documents[len(tokenized) :]
        texts = (document.text for document in front.documents)
        rows = signatures(texts)
        found = _split(tokenized, rows, train_tokens, validation_tokens, seed, held_out)
        if is_all or total_tokens(found.split.train) >= train_tokens:
            return found
        # Much of the front is copies, which are not trained on.
        wanted_tokens *= 2


def _split(
    documents: list[TokenizedDocument],
    rows: Signatures,
    train_tokens: int,
    validation_tokens: int,
    seed: int,
    held_out: HeldOut,
) -> Decided:
    copied = held_out.copied(rows)
    pairs = zip(documents, copied, strict=True)
    never = {document.identity for document, is_copied in pairs if is_copied}
    exact = frozenset(held_out.identities)
    split = sides(
        documents,
        train_tokens,
        validation_tokens,
        seed,
        {document.identity: row for document, row in zip(documents, rows, strict=True)},
        exact | never,
    )
    return Decided(split, documents, rows, len(never - exact))
