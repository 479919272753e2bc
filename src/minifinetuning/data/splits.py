"""Training and validation sides of a corpus: exact budgets and no document on both sides.

The paper (section 3.1) splits by document: 4M tokens for training, 0.5M for validation.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from minifinetuning.data.tokens import TokenizedDocument
from minifinetuning.errors import InputError


@dataclass(frozen=True)
class Split:
    """The two sides of a corpus, in the order of the split."""

    train: list[TokenizedDocument]
    validation: list[TokenizedDocument]


def split_documents(
    documents: Sequence[TokenizedDocument],
    train_tokens: int = 4_000_000,
    validation_tokens: int = 500_000,
    seed: int = 42,
) -> Split:
    """The documents in the order of `order_key`: the front to validation, the rest to training.

    Validation takes whole documents until it holds min(`validation_tokens`, 10 % of all tokens),
    passing over those with which it would hold more than half of all tokens. It does not depend
    on `train_tokens`. Training takes the others until it holds `train_tokens` tokens, the last one
    cut to meet them exactly. A single document is split by position: its end is validation.

    Raises InputError where there are no documents, or a budget is not above zero.
    """
    require_budget("train_tokens", train_tokens)
    rest, validation = _sides(documents, validation_tokens, seed)
    return Split(_front(rest, train_tokens), validation)


def validation_only(
    documents: Sequence[TokenizedDocument], validation_tokens: int = 500_000, seed: int = 42
) -> list[TokenizedDocument]:
    """The validation side alone: what `split_documents` gives under any training budget."""
    return _sides(documents, validation_tokens, seed)[1]


def order_key(identity: str, seed: int) -> str:
    """The place of a document in the order of the split: SHA-256 of `seed:identity`."""
    return hashlib.sha256(f"{seed}:{identity}".encode()).hexdigest()


def deciding_tokens(longest: int, train_tokens: int, validation_tokens: int) -> int:
    """The tokens that the front of the order must hold to decide the split of all documents.

    `longest` is the longest document of that front, in tokens. Validation V holds at most
    V + longest tokens; that is within half of the front, so no document is passed over, and V is
    within 10 % of it; what is left fills the training budget. Documents behind change nothing.
    """
    validation = validation_tokens + longest
    return max(10 * validation_tokens, 2 * validation, validation + train_tokens)


def require_budget(name: str, tokens: int) -> None:
    """Raises InputError, naming the option, where a budget (tokens) is not above zero."""
    if tokens < 1:
        raise InputError(f"--{name} is {tokens}: it must be above 0")


def total_tokens(documents: Sequence[TokenizedDocument]) -> int:
    """The number of tokens in the documents, their EOS included."""
    return sum(len(document.token_ids) for document in documents)


def _sides(
    documents: Sequence[TokenizedDocument], validation_tokens: int, seed: int
) -> tuple[list[TokenizedDocument], list[TokenizedDocument]]:
    """All that is not validation, and validation."""
    require_budget("validation_tokens", validation_tokens)
    if not documents:
        raise InputError("there are no documents to split: give at least one")
    # One of each identity: a repeated document could otherwise fall on both sides.
    distinct = list({document.identity: document for document in documents}.values())
    distinct.sort(key=lambda document: order_key(document.identity, seed))
    total = total_tokens(distinct)
    wanted = max(1, min(validation_tokens, total // 10))
    if len(distinct) == 1:
        return _cut(distinct[0], total - wanted)
    rest: list[TokenizedDocument] = []
    validation: list[TokenizedDocument] = []
    held = 0
    for document in distinct:
        size = len(document.token_ids)
        if held < wanted and held + size <= total // 2:
            validation.append(document)
            held += size
        else:
            rest.append(document)
    return rest, validation


def _cut(
    document: TokenizedDocument, position: int
) -> tuple[list[TokenizedDocument], list[TokenizedDocument]]:
    """The document before and from the position."""
    front = replace(document, token_ids=document.token_ids[:position])
    end = replace(document, token_ids=document.token_ids[position:])
    return ([front] if position else []), [end]


def _front(documents: Sequence[TokenizedDocument], budget: int) -> list[TokenizedDocument]:
    """The first `budget` tokens: whole documents, the last one cut."""
    front = []
    for document in documents:
        if budget <= 0:
            break
        front.append(replace(document, token_ids=document.token_ids[:budget]))
        budget -= len(document.token_ids)
    return front
