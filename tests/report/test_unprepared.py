"""A negative DG is said wherever figures are shown, and only where it is one."""

import pytest

from minifinetuning.report import comparison_page, model_card, recommendation, with_unprepared_note
from minifinetuning.report.blend_card import blend_card, blend_table

SAID = "DG is negative"


@pytest.fixture(params=[True, False])
def case(request, trial):
    """A result whose DG is below zero, with all of its interval or with a part, and whether."""
    lost = -0.5 if request.param else -0.1
    return trial("mft", (0, 0), (6, lost)), request.param


def test_what_is_shown_of_one_result_says_so(case):
    metrics, is_negative = case
    figures = with_unprepared_note("Measured on much.", metrics)
    assert figures.startswith("Measured on much.")
    for text in (figures, model_card(metrics)):
        assert (SAID in text) == is_negative
        assert ("mft prepare-reference" in text) == is_negative


def test_a_blend_says_so(case, blend):
    metrics, is_negative = case
    configuration = {"model": "tuned", "reference": "base", "max_degeneralization": None}
    points = [blend | metrics | {"coefficient": c} for c in (0.0, 0.5)]
    found = blend | metrics | {"coefficient": 0.5, "points": points}
    found |= {"configuration": configuration}
    for text in (blend_table(found), blend_card(found)):
        assert (SAID in text) == is_negative


def test_a_comparison_names_the_results(case, trial):
    metrics, is_negative = case
    results = {"mft": metrics, "ft": trial("ft", (0, 0), (5, 0.9))}
    sentence = recommendation(results, budget=1)
    assert sentence.startswith("Within the budget of DG")
    assert ("DG is negative for mft: " in sentence) == is_negative
    assert (SAID in comparison_page(results, 1, "title")) == is_negative


def test_without_general_text_there_is_nothing_to_say(result):
    assert SAID not in model_card(result(general=False))


def test_replay_is_to_improve_the_general_text(trial, result):
    replayed = result()["data"] | {"replay": {"sources": ["wikipedia.jsonl"]}}
    for metrics in (
        trial("ft", (0, 0), (6, -0.5), data=replayed),
        trial("self_replay+ft", (6, -1)),
    ):
        assert SAID not in recommendation({"one": metrics}, budget=1)
