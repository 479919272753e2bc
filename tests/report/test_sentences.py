"""What is said beside figures: of how much text they are, and what they do not mean."""

import pytest

from minifinetuning.report import (
    blend_card,
    blend_table,
    comparison_page,
    equal_specialization,
    measured_on,
    model_card,
    recommendation,
    with_unprepared_note,
)
from minifinetuning.report.sentences import degeneralization_at

SAID = "DG is negative"


def test_documents_tokens_and_sequences_are_named(result):
    assert measured_on(result()) == (
        "Measured on 84 documents of specialized text (99,123 tokens, 196 sequences) and "
        "61 documents of general text (96,040 tokens, 190 sequences); "
        "brackets are 95 % intervals by document."
    )
    assert "general" not in measured_on(result(general=False))


@pytest.mark.parametrize(("documents", "is_rough"), [(2, True), (19, True), (20, False)])
def test_few_documents_make_a_rough_interval(result, documents, is_rough):
    metrics = result()
    metrics["validation"]["general"]["documents"] = documents
    rough = "The intervals of the general text are rough: it has fewer than 20."
    assert (rough in measured_on(metrics)) == is_rough


def test_one_document_is_said_to_be_one(result):
    metrics = result()
    metrics["validation"]["specialized"] = {"documents": 1, "sequences": 1, "tokens": 1}
    said = measured_on(metrics)
    assert "1 document of specialized text (1 tokens, 1 sequence)" in said
    assert "one document, so its sequences were drawn" in said


def test_an_older_result_says_that_sequences_were_drawn(result):
    metrics = result()
    del metrics["validation"]
    for summary in metrics["data"].values():
        summary |= {"validation_documents": 3, "validation_sequences": 16}
    assert measured_on(metrics) == (
        "Measured on 3 documents of specialized text (16 sequences) and 3 documents of general "
        "text (16 sequences), all positions counted; brackets are 95 % intervals by sequence, "
        "which are too narrow where a document has several."
    )


def test_the_card_and_the_page_say_it(result):
    for written in (model_card(result()), comparison_page({"mft": result()}, 1.0, "title")):
        assert "84 documents of specialized text" in written.replace("\u00a0", " ")


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


def path(*points: tuple[float, float]) -> list[dict[str, float]]:
    return [{"specialization": s, "degeneralization": dg} for s, dg in points]


def test_degeneralization_is_linear_between_evaluations() -> None:
    history = path((0, 0), (4, 1), (8, 3), (7, 5))
    assert degeneralization_at(2, history) == pytest.approx(0.5)
    assert degeneralization_at(6, history) == pytest.approx(2)
    assert degeneralization_at(8, history) == pytest.approx(3)
    assert degeneralization_at(9, history) is None


def test_sentence_compares_at_the_same_gain() -> None:
    kept = {"method": "mft", "specialization": 6.0, "degeneralization": 0.6}
    other = {"method": "ft", "history": path((0, 0), (4, 1), (8, 3))}
    sentence = equal_specialization(kept, other)
    assert "6.00 %" in sentence
    assert "mft had lost DG 0.60 % (DG/S 0.100)" in sentence
    assert "ft 2.00 % (DG/S 0.333)" in sentence


def test_what_was_never_reached_is_said() -> None:
    kept = {"method": "mft", "specialization": 9.0, "degeneralization": 0.6}
    other = {"method": "ft", "history": path((0, 0), (4, 1))}
    assert "never" in equal_specialization(kept, other)
    assert equal_specialization(kept | {"degeneralization": None}, other) == ""
