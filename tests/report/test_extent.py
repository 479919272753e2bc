"""Of how much text figures are: said with every table, card and page."""

import pytest

from minifinetuning.report import comparison_page, measured_on, model_card


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
