import hashlib

import numpy
import pytest

from minifinetuning.data import TokenizedDocument, split_documents
from minifinetuning.data.splits import Extent, deciding_size, order_key
from minifinetuning.errors import InputError

EVERYTHING = 10**9


def document(name, size):
    """Tokens that no other document has."""
    start = 1000 * (int(name) + 1) if str(name).isdecimal() else 0
    return TokenizedDocument(str(name), numpy.arange(start, start + size, dtype=numpy.int32))


def sized(sizes):
    return [document(number, size) for number, size in enumerate(sizes)]


def names(side):
    return [one.identity for one in side]


def tokens(side):
    return sum(len(one.token_ids) for one in side)


@pytest.fixture
def corpus():
    return sized(numpy.random.default_rng(0).integers(1, 200, 300))


@pytest.fixture
def lognormal():
    return sized(numpy.random.default_rng(2).lognormal(5, 1.5, 400).astype(int) + 1)


def in_order(documents, seed):
    """The documented order, written out anew."""

    def key(one):
        return hashlib.sha256(f"{seed}:{one.identity}".encode()).hexdigest()

    return sorted(documents, key=key)


def copies(*named):
    """Signatures of documents by name; those of one letter are near-copies of each other."""
    rows = {}
    for name in named:
        row = numpy.random.default_rng(ord(name[0])).integers(0, 2**32, 128, dtype=numpy.uint32)
        # A quarter of the entries is the document's own.
        own = numpy.random.default_rng([ord(letter) for letter in name])
        row[own.choice(128, 32, replace=False)] = own.integers(0, 2**32, 32, dtype=numpy.uint32)
        rows[name] = row
    return rows


SHAPES = {
    "a novel, a README and a LICENSE": [93_322, 54, 210],
    "one": [50_000],
    "two alike": [40_000, 41_000],
    "the three of a general text": [5_000, 7_000, 4_000],
    "a thousand small ones": [150] * 1000,
    "a hundred of a thousand tokens": [1000] * 100,
    "a huge one and many small ones": [900_000, *[100] * 1000],
    "a novel and short stories": [93_000, 2_000, 2_100, 1_900, 2_200, 2_050],
    "lognormal": (numpy.random.default_rng(2).lognormal(5, 1.5, 400).astype(int) + 1).tolist(),
}


@pytest.mark.parametrize("sizes", SHAPES.values(), ids=SHAPES)
def test_validation_is_a_tenth_of_the_tokens_whatever_the_sizes(sizes):
    documents = sized(sizes)
    whole = {one.identity: one.token_ids.tolist() for one in documents}
    for seed in range(5):
        split = split_documents(documents, EVERYTHING, EVERYTHING, seed)
        tenth = sum(sizes) / 10
        assert 0.98 * tenth <= tokens(split.validation) <= 1.05 * tenth
        assert tokens(split.train) + tokens(split.validation) == sum(sizes)
        fronts = {one.identity: one.token_ids.tolist() for one in split.train}
        ends = {one.identity: one.token_ids.tolist() for one in split.validation}
        # Front to train, end to validate, and nothing lost or shared between them.
        assert all(fronts.get(n, []) + ends.get(n, []) == whole[n] for n in whole)
        assert split.cut == len(fronts.keys() & ends.keys())


def test_a_novel_is_validation_rather_than_its_readme():
    for seed in range(20):
        validation = split_documents(sized([93_322, 54, 210]), seed=seed).validation
        of_novel = [len(one.token_ids) for one in validation if one.identity == "0"]
        assert sum(of_novel) > 9_000


def test_every_size_has_its_share():
    for seed in range(5):
        split = split_documents(sized([900_000, *[100] * 1000]), EVERYTHING, EVERYTHING, seed)
        of_small = [one for one in split.validation if one.identity != "0"]
        assert len(of_small) == 100
        assert all(len(one.token_ids) == 100 for one in of_small)


@pytest.mark.parametrize(
    "sizes", [[1000] * 100, [5000] * 60, [20_000] * 40, [300] * 700, [1280] * 32, [129] * 318]
)
def test_validation_is_of_many_documents_where_there_are_many(sizes):
    validation = split_documents(sized(sizes), EVERYTHING, EVERYTHING, seed=3).validation
    assert len(validation) >= 32


@pytest.mark.parametrize(("count", "held"), [(31, 31), (30, 30), (12, 12), (100, 15), (40, 15)])
def test_validation_of_few_tokens_is_of_as_many_documents_as_have_something_to_say(count, held):
    """Below 4,096 tokens: 128 of each, where each has as many."""
    budget = 128 * held
    documents = sized([1280 if count == held else 5000] * count)
    validation = split_documents(documents, EVERYTHING, budget).validation
    assert [len(one.token_ids) for one in validation] == [128] * held


def test_documents_are_cut_no_shorter_than_means_anything():
    validation = split_documents(sized([1000] * 30), EVERYTHING, EVERYTHING).validation
    assert {len(one.token_ids) for one in validation[:-1]} == {128}


def test_all_small_documents_are_whole_on_one_side(corpus):
    for seed in range(50):
        split = split_documents(corpus, EVERYTHING, 4096, seed)
        train, validation = set(names(split.train)), set(names(split.validation))
        assert split.cut == len(train & validation)
        short = {one.identity for one in corpus if len(one.token_ids) <= 128}
        assert not train & validation & short
        assert train | validation == set(names(corpus))


def test_validation_is_at_the_front_of_the_order(corpus):
    small = [one for one in corpus if len(one.token_ids) <= 75]
    validation = split_documents(small, EVERYTHING, 300, seed=3).validation
    order = in_order(small, 3)
    count = len(validation)
    assert names(validation) == names(order[:count])
    assert tokens(order[: count - 1]) < 300 <= tokens(order[:count])


def test_validation_does_not_depend_on_training(corpus, lognormal):
    for documents in (corpus, lognormal):
        expected = split_documents(documents, 0, 1000, seed=5).validation
        for budget in (1, 777, EVERYTHING):
            never = frozenset(names(documents[::3]))
            split = split_documents(documents, budget, 1000, seed=5, never_trained=never)
            for one, other in zip(split.validation, expected, strict=True):
                assert one.identity == other.identity
                assert (one.token_ids == other.token_ids).all()


def test_the_order_of_reading_does_not_matter_and_the_seed_does(corpus):
    def validation(documents, seed):
        return names(split_documents(documents, validation_tokens=1000, seed=seed).validation)

    assert validation(corpus[::-1], 1) == validation(corpus, 1)
    assert validation(corpus, 2) != validation(corpus, 1)


def test_the_training_budget_is_met_exactly_and_only_the_last_document_cut(corpus):
    all_train = split_documents(corpus, EVERYTHING, 1000).train
    for budget in (1, 1000, 4321):
        train = split_documents(corpus, budget, 1000).train
        assert tokens(train) == budget
        for one, whole in zip(train, all_train, strict=False):
            assert one.identity == whole.identity
            assert (one.token_ids == whole.token_ids[: len(one.token_ids)]).all()
            assert one is train[-1] or len(one.token_ids) == len(whole.token_ids)


@pytest.mark.parametrize(("validation_tokens", "held"), [(500, 100), (30, 30)])
def test_a_single_document_is_split_by_position(validation_tokens, held):
    split = split_documents([document("a", 1000)], EVERYTHING, validation_tokens)
    assert split.train[0].token_ids.tolist() == list(range(1000 - held))
    assert split.validation[0].token_ids.tolist() == list(range(1000 - held, 1000))


def test_a_single_token_is_validation():
    split = split_documents([document("a", 1)], 10, 10)
    assert (tokens(split.train), tokens(split.validation)) == (0, 1)


def test_repeated_identities_count_once():
    documents = [document(number % 10, 20) for number in range(40)]
    split = split_documents(documents, EVERYTHING, 30)
    assert set(names(split.train) + names(split.validation)) == {str(n) for n in range(10)}
    assert tokens(split.train) + tokens(split.validation) == 200


def test_what_is_never_trained_is_passed_over(corpus):
    never = frozenset(names(corpus[::2]))
    split = split_documents(corpus, EVERYTHING, 1000, never_trained=never)
    assert not never & set(names(split.train))
    assert split.passed_over > 100
    others = split_documents(corpus, 5000, 1000, never_trained=never).train
    assert tokens(others) == 5000


def test_near_copies_are_on_one_side_and_count_as_one_document():
    letters = [chr(ord("A") + number) for number in range(50)]
    named = [letter + str(number) for letter in letters for number in range(5)]
    documents = [document(name, 40) for name in named]
    for seed in range(20):
        split = split_documents(documents, EVERYTHING, 1000, seed, signatures=copies(*named))
        train = {name[0] for name in names(split.train)}
        validation = {name[0] for name in split.held_out.identities}
        assert split.are_apart
        assert validation
        assert not train & validation
        assert train | validation == set(letters)
        assert len(split.validation) == len(validation)
        assert 900 <= tokens(split.validation) <= 1100


def test_a_large_group_of_near_copies_is_for_training():
    named = [f"A{number}" for number in range(50)] + [chr(ord("B") + n) for n in range(30)]
    documents = [document(name, 100) for name in named]
    split = split_documents(documents, EVERYTHING, EVERYTHING, signatures=copies(*named))
    assert not any(name.startswith("A") for name in split.held_out.identities)
    assert tokens(split.validation) == 800
    assert split.are_apart


def test_what_is_all_near_copies_is_split_by_document_and_said():
    named = [f"A{number}" for number in range(100)]
    documents = [document(name, 100) for name in named]
    split = split_documents(documents, EVERYTHING, EVERYTHING, signatures=copies(*named))
    assert not split.are_apart
    assert tokens(split.validation) >= 1000
    assert not split.left_out


def test_near_copies_behind_the_front_are_left_out():
    letters = [chr(ord("A") + number) for number in range(400)]
    named = [letter + str(number) for letter in letters for number in range(2)]
    documents = [document(name, 20) for name in named]
    split = split_documents(documents, EVERYTHING, 100, seed=1, signatures=copies(*named))
    validation = {name[0] for name in split.held_out.identities}
    assert not validation & {name[0] for name in names(split.train)}
    assert {name[0] for name in split.left_out} <= validation
    # Of most of them the copy lies behind the front that validation is chosen from.
    assert len(split.left_out) >= 2
    assert len(split.train) + len(split.held_out) + len(split.left_out) == len(named)


def test_a_front_that_is_enough_gives_the_split_of_all():
    generator = numpy.random.default_rng(1)
    shorter = 0
    for seed in range(60):
        documents = in_order(sized(generator.integers(1, 300, 200)), seed)
        train, validation = (int(budget) for budget in generator.integers(1, 1500, 2))
        extent = deciding_size(validation, train)
        count = 1
        while count < len(documents) and not extent.is_reached(tokens(documents[:count]), count):
            count += 1
        shorter += count < len(documents)
        of_front = split_documents(documents[:count], train, validation, seed)
        of_all = split_documents(documents, train, validation, seed)
        for side in ("train", "validation"):
            pairs = zip(getattr(of_front, side), getattr(of_all, side), strict=True)
            assert all(a.identity == b.identity for a, b in pairs)
            assert tokens(getattr(of_front, side)) == tokens(getattr(of_all, side))
        assert tokens(of_all.train) == train or count == len(documents)
    assert shorter > 20


def test_a_front_is_of_many_documents_unless_they_are_very_long():
    extent = Extent(100, documents=32, most=400)
    assert not extent.is_reached(99, 1000)
    assert not extent.is_reached(399, 31)
    assert extent.is_reached(100, 32)
    assert extent.is_reached(400, 1)


def test_the_order_is_stable_over_versions():
    assert order_key("a", 42) == hashlib.sha256(b"42:a").hexdigest()


def test_a_training_budget_of_zero_gives_the_validation_side_alone(corpus):
    assert not split_documents(corpus, train_tokens=0).train


def test_nothing_to_split_and_budgets_that_are_none_are_refused(corpus):
    with pytest.raises(InputError, match="no documents"):
        split_documents([])
    with pytest.raises(InputError, match="--train_tokens is -1"):
        split_documents(corpus, train_tokens=-1)
    with pytest.raises(InputError, match="--validation_tokens is 0"):
        split_documents(corpus, validation_tokens=0)
