import hashlib
import random
import weakref

import pytest

from minifinetuning.data import Document
from minifinetuning.data.splits import Extent
from minifinetuning.data.streaming import first_in_order


@pytest.fixture
def documents():
    source = random.Random(0)
    return [Document(f"{number} " * source.randint(1, 40), "here") for number in range(300)]


def in_order(documents, seed):
    """The documented order, written out anew."""

    def key(document):
        identity = hashlib.sha256(document.text.strip().encode()).hexdigest()
        return hashlib.sha256(f"{seed}:{identity}".encode()).hexdigest()

    return sorted(documents, key=key)


@pytest.mark.parametrize("characters", [1, 100, 2500, 10_000])
def test_the_front_is_the_shortest_that_holds_the_characters(documents, characters):
    for seed in range(5):
        front = first_in_order(documents, seed, Extent(characters))
        count = len(front.documents)
        assert front.documents == in_order(documents, seed)[:count]
        held = sum(len(document.text) for document in front.documents)
        assert held - len(front.documents[-1].text) < characters <= held
        assert not front.is_all


def test_the_front_is_of_many_documents_unless_they_are_long(documents):
    for most, held in ((10**9, 40), (500, None)):
        front = first_in_order(documents, 3, Extent(100, 40, most))
        order = in_order(documents, 3)
        assert front.documents == order[: len(front.documents)]
        if held is None:
            lengths = [len(document.text) for document in front.documents]
            assert sum(lengths[:-1]) < most <= sum(lengths)
        else:
            assert len(front.documents) == held


def test_all_documents_are_a_front(documents):
    characters = sum(len(document.text) for document in documents)
    for enough in (characters, 10 * characters):
        front = first_in_order(documents, 7, Extent(enough))
        assert front.documents == in_order(documents, 7)
        assert front.is_all


def test_repeated_documents_keep_their_order():
    documents = [Document("same", str(number)) for number in range(9)]
    assert first_in_order(documents, 0, Extent(100)).documents == documents
    assert first_in_order(documents, 0, Extent(12)).documents == documents[:3]


def test_no_more_than_the_front_is_held():
    alive = weakref.WeakSet()
    most = 0

    def made():
        nonlocal most
        for number in range(500):
            document = Document(f"{number:0100}", "here")
            alive.add(document)
            most = max(most, len(alive))
            yield document

    front = first_in_order(made(), 0, Extent(1000))
    assert len(front.documents) == 10
    # Beside the front: the one just made, and the one before it, which the loop still names.
    assert most <= 12


def test_the_end_of_each_document_counts(documents):
    held = first_in_order(documents, 1, Extent(1000), end=50).documents
    sizes = [len(document.text) + 50 for document in held]
    assert held == in_order(documents, 1)[: len(held)]
    assert sum(sizes[:-1]) < 1000 <= sum(sizes)
