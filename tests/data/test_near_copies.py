import random
import tracemalloc

import numpy
import pytest

from minifinetuning.data import HeldOut
from minifinetuning.data.near_copies import groups, near_copies, signatures

WORDS = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in ("n", "r", "st", "l")]
THAI = [chr(code) for code in range(0x0E01, 0x0E2F)]
CHINESE = [chr(code) for code in range(0x4E00, 0x4E00 + 800)]


def written(words, space, count, seed, length=150):
    source = random.Random(seed)
    return [space.join(source.choices(words, k=length)) for _ in range(count)]


def edited(text, space, words, share, seed):
    """The text with a share of its words (or characters) exchanged."""
    source = random.Random(seed)
    parts = text.split(space) if space else list(text)
    return space.join(source.choice(words) if source.random() < share else one for one in parts)


@pytest.mark.parametrize(
    ("words", "space", "share"),
    [(WORDS, " ", 0.07), (WORDS, " \n", 0.05), (THAI, "", 0.03), (CHINESE, "", 0.03)],
)
def test_lightly_edited_copies_are_found_and_nothing_else(words, space, share):
    texts = written(words, space, 60, seed=1)
    copies = [edited(text, space, words, share, n) for n, text in enumerate(texts)]
    found = groups(signatures(texts + copies))
    assert found[:60] == list(range(60))
    assert sum(one == other for one, other in zip(found[60:], found[:60], strict=True)) >= 59
    assert all(group in (n, 60 + n) for n, group in enumerate(found[60:]))
    against = near_copies(signatures(copies), signatures(texts))
    assert sum(place == n for n, place in enumerate(against)) >= 59
    assert near_copies(signatures(texts), signatures(written(words, space, 60, seed=2))) == [
        None
    ] * len(texts)


def wrapped(text, width, space="\n"):
    return space.join(text[start : start + width] for start in range(0, len(text), width))


@pytest.mark.parametrize("letters", [CHINESE, THAI, [chr(0x0F40 + n) for n in range(40)]])
def test_white_space_in_scripts_without_it_between_words_says_nothing(letters):
    """Lines of a fixed width, and phrases that are set off."""
    texts = written(letters, "", 40, seed=1, length=600)
    copies = [edited(text, "", letters, 0.03, n) for n, text in enumerate(texts)]
    again = [wrapped(text, 22) for text in copies]
    loose = [wrapped(text, 9, " ") for text in copies]
    mixed = [wrapped(text, 30, " in English, ") for text in copies]
    for left, right in ((texts, again), (map(wrapped, texts, [20] * 40), again), (texts, loose)):
        assert near_copies(signatures(right), signatures(left)) == list(range(40))
    assert near_copies(signatures(mixed), signatures(texts)) == list(range(40))
    others = [wrapped(text, 20) for text in written(letters, "", 40, seed=2, length=600)]
    assert near_copies(signatures(again), signatures(others)) == [None] * 40


def test_a_chain_of_edits_is_one_group():
    chain = written(WORDS, " ", 1, seed=3)
    for step in range(10):
        chain.append(edited(chain[-1], " ", WORDS, 0.05, step))
    assert near_copies(signatures(chain[:1]), signatures(chain[-1:])) == [None]
    assert groups(signatures(chain)) == [0] * len(chain)


def test_many_equal_documents_are_one_group():
    texts = written(WORDS, " ", 2, seed=4)
    assert groups(signatures([texts[0], *[texts[1]] * 500])) == [0, *[1] * 500]


def test_short_documents_are_compared_with_none():
    texts = [f"the order {number} was sent to you" for number in range(30)] + ["", "a"]
    assert groups(signatures(texts)) == list(range(32))
    assert near_copies(signatures(texts), signatures(texts)) == [None] * 32


def test_similarity_is_that_of_the_shingles():
    """MinHash against the exact share of common runs of three words."""
    one = written(WORDS, " ", 1, seed=5, length=2000)[0].split()
    for kept in (200, 1000, 1800):
        other = one[:kept] + written(WORDS, " ", 1, seed=6, length=2000 - kept)[0].split()
        sets = [set(zip(t, t[1:], t[2:], strict=False)) for t in (one, other)]
        exact = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
        rows = signatures([" ".join(one), " ".join(other)])
        assert abs((rows[0] == rows[1]).mean() - exact) < 0.13


def test_a_long_text_is_looked_at_in_parts(monkeypatch):
    texts = written(WORDS, " ", 3, seed=8, length=3000)
    copies = [edited(text, " ", WORDS, 0.05, n) for n, text in enumerate(texts)]
    monkeypatch.setattr("minifinetuning.data.near_copies._PART", 1000)
    assert groups(signatures(texts + copies)) == [0, 1, 2, 0, 1, 2]


def test_nothing_is_near_nothing():
    assert groups(signatures([])) == []
    assert near_copies(signatures([]), signatures(["a b c"])) == []
    assert near_copies(signatures(written(WORDS, " ", 2, seed=1)), signatures([])) == [None, None]


def test_what_is_held_out_knows_its_copies():
    texts = written(WORDS, " ", 4, seed=7)
    held_out = HeldOut(("a", "b"), signatures(texts[:2]))
    copy = edited(texts[1], " ", WORDS, 0.05, 1)
    others = signatures([texts[3], copy])
    assert held_out.copies_among(["other", "copy"], others) == ["copy"]
    assert held_out.copied_in(others) == ["b"]
    both = held_out | HeldOut(("c",), signatures(texts[2:3]))
    assert both.identities == ("a", "b", "c")
    assert numpy.array_equal(both.signatures, signatures(texts[:3]))
    assert len({both.digest, held_out.digest, HeldOut(("a", "c"), held_out.signatures).digest}) == 3


def test_signatures_are_held_as_what_they_are():
    """128 numbers of 4 bytes a document, also while they are made."""
    signatures(["one text"])
    tracemalloc.start()
    rows = signatures(f"{number} is a short text of nine words each" for number in range(2000))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows.shape == (2000, 128)
    assert most < 2 * rows.nbytes
