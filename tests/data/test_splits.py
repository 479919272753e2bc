import hashlib

import numpy
import pytest

from minifinetuning.data import TokenizedDocument, split_documents, validation_only
from minifinetuning.data.splits import deciding_tokens, order_key
from minifinetuning.errors import InputError


def document(name, size):
    return TokenizedDocument(str(name), numpy.arange(size, dtype=numpy.int32))


def sized(sizes):
    return [document(number, size) for number, size in enumerate(sizes)]


def names(side):
    return [one.identity for one in side]


def tokens(side):
    return sum(len(one.token_ids) for one in side)


@pytest.fixture
def corpus():
    sizes = numpy.random.default_rng(0).integers(1, 200, 300)
    return sized(sizes)


def in_order(documents, seed):
    """The documented order, written out anew."""

    def key(one):
        return hashlib.sha256(f"{seed}:{one.identity}".encode()).hexdigest()

    return sorted(documents, key=key)


def test_no_document_is_on_both_sides_or_lost(corpus):
    for seed in range(50):
        split = split_documents(corpus, 10**9, 1000, seed)
        train, validation = set(names(split.train)), set(names(split.validation))
        assert not train & validation
        assert train | validation == set(names(corpus))
        assert len(split.train) + len(split.validation) == len(corpus)


def test_validation_is_the_front_of_the_order_up_to_its_budget(corpus):
    split = split_documents(corpus, 10**9, 1000, seed=3)
    order = in_order(corpus, 3)
    count = len(split.validation)
    assert names(split.validation) == names(order[:count])
    assert tokens(order[: count - 1]) < 1000 <= tokens(order[:count])


def test_validation_is_at_most_about_a_tenth(corpus):
    validation = split_documents(corpus, 10**9, 10**9).validation
    tenth = tokens(corpus) // 10
    assert tenth <= tokens(validation) < tenth + 200


def test_validation_does_not_depend_on_the_training_budget(corpus):
    expected = names(validation_only(corpus, 1000, seed=5))
    for budget in (1, 777, 10**9):
        assert names(split_documents(corpus, budget, 1000, seed=5).validation) == expected


def test_the_order_of_reading_does_not_matter_and_the_seed_does(corpus):
    expected = names(validation_only(corpus, 1000, seed=1))
    assert names(validation_only(corpus[::-1], 1000, seed=1)) == expected
    assert names(validation_only(corpus, 1000, seed=2)) != expected


def test_the_training_budget_is_met_exactly_and_only_the_last_document_cut(corpus):
    whole = {one.identity: one.token_ids for one in corpus}
    for budget in (1, 1000, 4321):
        train = split_documents(corpus, budget, 1000).train
        assert tokens(train) == budget
        assert all(len(one.token_ids) == len(whole[one.identity]) for one in train[:-1])
        last = train[-1].token_ids
        assert (last == whole[train[-1].identity][: len(last)]).all()


def test_a_larger_training_budget_continues_a_smaller_one(corpus):
    small = names(split_documents(corpus, 1000, 1000).train)
    large = names(split_documents(corpus, 5000, 1000).train)
    assert large[: len(small)] == small


def test_a_document_of_more_than_half_of_all_tokens_is_never_validation():
    for seed in range(20):
        split = split_documents(sized([900, 50, 40]), 10**9, 500, seed)
        assert "0" in names(split.train)
        assert split.validation


def test_two_documents_give_one_to_each_side():
    for seed in range(20):
        split = split_documents(sized([10, 11]), 10**9, 500, seed)
        assert names(split.validation) == ["0"]
        assert names(split.train) == ["1"]


@pytest.mark.parametrize(("validation_tokens", "held"), [(500, 100), (30, 30)])
def test_a_single_document_is_split_by_position(validation_tokens, held):
    split = split_documents([document("a", 1000)], 10**9, validation_tokens)
    assert split.train[0].token_ids.tolist() == list(range(1000 - held))
    assert split.validation[0].token_ids.tolist() == list(range(1000 - held, 1000))


def test_a_single_token_is_validation():
    split = split_documents([document("a", 1)], 10, 10)
    assert (tokens(split.train), tokens(split.validation)) == (0, 1)


def test_repeated_identities_count_once():
    documents = [document(number % 10, 20) for number in range(40)]
    split = split_documents(documents, 10**9, 30)
    assert sorted(names(split.train) + names(split.validation)) == [str(n) for n in range(10)]


def test_a_front_that_holds_the_deciding_tokens_gives_the_split_of_all():
    generator = numpy.random.default_rng(1)
    shorter = 0
    for seed in range(60):
        documents = in_order(sized(generator.integers(1, 300, 200)), seed)
        train, validation = (int(budget) for budget in generator.integers(1, 3000, 2))
        count = 1
        while count < len(documents):
            front = documents[:count]
            longest = max(len(one.token_ids) for one in front)
            if tokens(front) >= deciding_tokens(longest, train, validation):
                break
            count += 1
        shorter += count < len(documents)
        of_front = split_documents(documents[:count], train, validation, seed)
        of_all = split_documents(documents, train, validation, seed)
        assert names(of_front.validation) == names(of_all.validation)
        assert names(of_front.train) == names(of_all.train)
        assert tokens(of_front.train) == tokens(of_all.train)
    assert shorter > 20


def test_the_order_is_stable_over_versions():
    assert order_key("a", 42) == hashlib.sha256(b"42:a").hexdigest()


def test_nothing_to_split_and_budgets_of_zero_are_refused(corpus):
    with pytest.raises(InputError, match="no documents"):
        split_documents([])
    with pytest.raises(InputError, match="--train_tokens is 0"):
        split_documents(corpus, train_tokens=0)
    with pytest.raises(InputError, match="--validation_tokens is 0"):
        validation_only(corpus, validation_tokens=0)
