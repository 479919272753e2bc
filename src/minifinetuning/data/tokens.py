"""Documents to token ids, and token budgets such as "4M"."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy
import numpy.typing
from tqdm import tqdm

from minifinetuning.data.documents import Document
from minifinetuning.data.tokenizers import PlainText, closing_token_id
from minifinetuning.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TokenIds = numpy.typing.NDArray[numpy.int32]

# Enough for all cores, since documents are tokenized in parallel; while a tokenizer's own record of
# a token takes some hundred bytes, so that many long documents at once would fill the memory.
_BATCH_DOCUMENTS = 256
_BATCH_CHARACTERS = 2**20

_UNKNOWN_SHARE = 0.01
"""Of all tokens: above it unknown ones decide what is learnt and measured."""

_MULTIPLES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


@dataclass(frozen=True, eq=False)
class TokenizedDocument:
    """Token ids (n,) that close with EOS, under the identity of the text that they encode.

    `unknown` of the ids are the unknown token; `broken` are strings that would have become control
    tokens, see `PlainText`.
    """

    identity: str
    token_ids: TokenIds
    unknown: int = 0
    broken: tuple[str, ...] = ()


def document_identity(text: str) -> str:
    """The stable name of a document: the SHA-256 of its text, in hexadecimal.

    Texts that differ in the white space around them alone are one document.
    """
    return hashlib.sha256(text.strip().encode()).hexdigest()


def tokenize_documents(
    documents: Sequence[Document], tokenizer: "PreTrainedTokenizerBase", progress: bool = False
) -> Iterator[TokenizedDocument]:
    """Each document's token ids as the tokenizer gives them, closed with one EOS.

    Documents are tokenized in batches, as they are asked for. Text that spells a special token,
    such as `<|im_end|>`, is encoded as ordinary text, see `PlainText`. Raises InputError where the
    tokenizer has no EOS token, or where that cannot be.
    """
    eos = closing_token_id(tokenizer)
    plain = PlainText(tokenizer)
    with tqdm(
        total=len(documents), desc="tokenizing", unit="doc", leave=False, disable=not progress
    ) as bar:
        for texts in _batches(documents):
            for text, encoded in zip(texts, plain.encoded(texts), strict=True):
                is_closed = encoded.token_ids[-1:] == [eos]
                closed = encoded.token_ids if is_closed else [*encoded.token_ids, eos]
                yield TokenizedDocument(
                    document_identity(text),
                    numpy.array(closed, dtype=numpy.int32),
                    encoded.unknown,
                    encoded.broken,
                )
            bar.update(len(texts))


def token_notes(
    documents: Sequence[TokenizedDocument], tokenizer: "PreTrainedTokenizerBase"
) -> list[str]:
    """Sentences that a person must be told of what the tokenizer made of the documents."""
    notes = []
    total = sum(len(document.token_ids) for document in documents)
    unknown = sum(document.unknown for document in documents)
    if unknown > _UNKNOWN_SHARE * total:
        notes.append(
            f"warning: {unknown / total:.1%} of all tokens are {tokenizer.unk_token}, text that "
            "the tokenizer does not know: S and DG say how well a model guesses that one token; "
            "take a model that was made for this language"
        )
    broken = sorted({spelt for document in documents for spelt in document.broken})
    if broken:
        notes.append(
            f"the text spells control tokens ({', '.join(broken[:5])}), which this tokenizer "
            "would take for them: each is cut in two and so stays text"
        )
    return notes


def _batches(documents: Sequence[Document]) -> Iterator[list[str]]:
    """The texts in order, as many together as the limits of a batch allow, at least one."""
    texts: list[str] = []
    characters = 0
    for document in documents:
        characters += len(document.text)
        if texts and (len(texts) == _BATCH_DOCUMENTS or characters > _BATCH_CHARACTERS):
            yield texts
            texts, characters = [], len(document.text)
        texts.append(document.text)
    if texts:
        yield texts


def token_count(value: int | str) -> int:
    """The number of tokens that a budget names: 500000, "500_000", "100k", "0.5M" or "2B".

    Raises InputError, naming the value, where it is not a whole number above zero.
    """
    match = re.fullmatch(r"(\d[\d_]*(?:\.\d+)?)([kmb]?)", str(value).strip().lower(), re.ASCII)
    if match:
        count = Decimal(match[1].replace("_", "")) * _MULTIPLES[match[2]]
        if count > 0 and count == int(count):
            return int(count)
    raise InputError(
        f"{value!r} is not a number of tokens: give a whole number above 0, "
        "such as 500000, 100k, 0.5M or 2B"
    )
