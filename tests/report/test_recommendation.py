import random

import pytest

from minifinetuning.errors import InputError
from minifinetuning.report import recommendation

MFT = ((0, 0), (6, 0.4), (9, 1.0), (10, 1.6))
FT = ((0, 0), (5, 0.9), (12, 4.0))


def ahead(results, winner, over, low, high):
    """The results, of which `winner` was held against another: an interval of S in points."""
    value = None if low is None else (low + high) / 2
    intervals = {"level": 0.95, "specialization": [low, high]}
    results[winner]["lead"] = {"over": over, "specialization": value, "intervals": intervals}
    return results


def test_the_best_evaluation_within_the_budget_is_named_with_what_it_costs(trial):
    results = {
        "one": trial("ft", *FT, learning_rate=3e-5),
        "two": trial("mft", *MFT, learning_rate=1e-4),
    }

    assert recommendation(ahead(results, "two", "one", 3.0, 5.0), budget=1) == (
        "Within the budget of DG ≤ 1 %, mft at learning rate 1e-4 gains most, "
        "S 9.00 % for DG 1.00 % at step 20; "
        "the runner-up is ft at learning rate 3e-5 with S 5.00 % for DG 0.90 % at step 10, "
        "4.00 [3.00, 5.00] points less."
    )


def test_the_runner_up_is_another_method_even_where_another_learning_rate_is_closer(trial):
    results = {
        "mft": trial("mft", *MFT),
        "mft slow": trial("mft", (0, 0), (7, 0.5), learning_rate=3e-5),
        "ft": trial("ft", *FT),
    }

    assert "the runner-up is ft " in recommendation(results, budget=1)


def test_a_blend_is_named_by_its_coefficient(blend):
    sentence = recommendation({"ft+blend": blend}, budget=1)

    assert (
        "ft+blend at learning rate 1e-4 gains most, S 6.00 % for DG 0.90 % at c = 0.5" in sentence
    )


@pytest.mark.parametrize("results_of_others", [0, 1])
def test_where_no_other_method_gains_that_is_said(trial, results_of_others):
    dear = {"ft": trial("ft", (0, 0), (9, 3))} if results_of_others else {}
    sentence = recommendation({"mft": trial("mft", *MFT), **dear}, budget=1)

    assert sentence.endswith("; no other method gained anything within it.") == bool(dear)
    assert "runner-up" not in sentence


def test_one_method_is_held_against_its_other_learning_rate(trial):
    results = {
        "mft": trial("mft", *MFT),
        "slow": trial("mft", (0, 0), (7, 0.5), learning_rate=3e-5),
    }

    assert "the runner-up is mft at learning rate 3e-5" in recommendation(results, budget=1)


@pytest.mark.parametrize(("low", "is_clear"), [(-0.1, False), (0.0, False), (0.1, True)])
def test_which_is_better_is_judged_by_their_paired_difference(trial, low, is_clear):
    # 9 ± 0.5 and 8.9 ± 0.5: side by side neither interval says which is better.
    results = {"mft": trial("mft", (0, 0), (9, 0.9)), "ft": trial("ft", (0, 0), (8.9, 0.9))}

    sentence = recommendation(ahead(results, "mft", "ft", low, 0.4), budget=1)

    assert ("the runner-up is ft" in sentence) == is_clear
    assert ("not clearly better than ft at learning rate 1e-4" in sentence) != is_clear
    assert f"{(low + 0.4) / 2:.2f} [{low:.2f}, 0.40] points" in sentence


def test_an_unbounded_interval_makes_nothing_clear(trial):
    results = {"mft": trial("mft", (0, 0), (50, 0.9)), "ft": trial("ft", (0, 0), (9, 0.9))}
    sentence = recommendation(ahead(results, "mft", "ft", None, None), budget=1)

    assert "not clearly better than ft" in sentence


@pytest.mark.parametrize("over", [None, "kl"])
def test_without_a_pairing_nothing_is_claimed(trial, over):
    results = {"mft": trial("mft", (0, 0), (50, 0.9)), "ft": trial("ft", (0, 0), (9, 0.9))}
    if over:
        ahead(results, "mft", over, 1.0, 2.0)
    sentence = recommendation(results, budget=1)

    assert sentence.endswith("though the two were not paired.")
    assert "clearly" not in sentence


def test_where_nothing_gains_within_the_budget_the_least_loss_is_named(trial):
    results = {"ft": trial("ft", (0, 0), (5, 0.9), (12, 4)), "mft": trial("mft", (0, 0), (9, 0.3))}

    assert recommendation(results, budget=0.1) == (
        "Nothing gained within the budget of DG ≤ 0.1 %: the gain of least loss is mft at learning "
        "rate 1e-4 with S 9.00 % for DG 0.30 % at step 10, so accept that loss or keep the "
        "starting model."
    )


def test_where_nothing_gains_at_all_the_starting_model_is_kept(trial):
    sentence = recommendation({"ft": trial("ft", (0, 0), (-5, 0.9))}, budget=1)

    assert sentence.startswith("Keep the starting model")


def test_without_general_text_gain_decides_and_the_sentence_says_so(result):
    results = {
        "ft": result("ft", general=False, forward_kl=0.2),
        "mft": result("mft", general=False, specialization=5.0),
    }

    sentence = recommendation(results, budget=1)

    assert sentence.startswith("Without general text DG ≤ 1 % cannot be checked; by S alone, ft ")
    assert "S 6.50 % for KL(p_T‖p_S) 0.200 nats a token at step 40" in sentence
    assert "with S 5.00 % for KL(p_T‖p_S) 0.031 nats a token" in sentence


@pytest.mark.parametrize("budget", [-1, 0.1, 1, 100])
@pytest.mark.parametrize("general", [True, False])
def test_it_is_one_sentence(trial, result, budget, general):
    results = {"mft": trial("mft", *MFT), "ft": trial("ft", *FT)}
    if not general:
        results = {name: result(name, general=False) for name in results}

    sentence = recommendation(results, budget)

    assert sentence.endswith(".")
    assert ". " not in sentence
    assert "\n" not in sentence


def test_it_agrees_with_a_search_by_hand(trial):
    generator = random.Random(0)
    for _ in range(50):
        paths = {
            name: [(0, 0), *((generator.uniform(0, 9), generator.uniform(0, 3)) for _ in range(5))]
            for name in ("ft", "mft", "kl")
        }
        allowed = [
            (gain, name, 10 * index)
            for name, path in paths.items()
            for index, (gain, loss) in enumerate(path)
            if loss <= 1 and gain > 0
        ]
        if not allowed:
            continue
        gain, name, step = max(allowed)

        sentence = recommendation({name: trial(name, *path) for name, path in paths.items()}, 1)

        assert f", {name} at learning rate 1e-4 gains most, S {gain:.2f} %" in sentence
        assert f" at step {step}" in sentence.split("runner-up")[0].split("not clearly")[0]


def test_nothing_to_compare_is_said_so():
    with pytest.raises(InputError, match="no result to compare"):
        recommendation({}, budget=1)


def test_the_same_training_with_a_blend_is_no_runner_up(trial, blend):
    results = {
        "ft": trial("ft", (0, 0), (6, 0.9), (9, 0.95)),
        "ft+blend": blend,
        "mft": trial("mft", (0, 0), (5, 0.5)),
    }
    sentence = recommendation(results, budget=1)
    assert "ft at learning rate" in sentence
    assert "runner-up is mft " in sentence
    assert "blend" not in sentence
