import pytest

from minifinetuning.errors import InputError
from minifinetuning.report import comparison_table


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]


def test_every_change_stands_with_its_interval(result):
    header, _, reference, tuned = cells(comparison_table({"mft": result()}))

    assert dict(zip(header, reference, strict=True)) == {
        "method": "reference",
        "S %": "-",
        "DG %": "-",
        "DG/S": "-",
        "specialized perplexity": "16.10",
        "general perplexity": "15.20",
    }
    assert dict(zip(header, tuned, strict=True)) == {
        "method": "mft",
        "S %": "6.50 [5.90, 7.10]",
        "DG %": "0.40 [0.10, 0.70]",
        "DG/S": "0.061 [0.015, 0.125]",
        "specialized perplexity": "15.05",
        "general perplexity": "15.26",
    }


def test_columns_are_padded_to_one_width(result):
    lines = comparison_table({"mft": result(), "a much longer name": result("ft")}).splitlines()

    assert len({len(line) for line in lines}) == 1
    bars = {tuple(at for at, letter in enumerate(line) if letter == "|") for line in lines}
    assert len(bars) == 1


def test_an_infinite_bound_is_unbounded_and_an_unknown_ratio_empty(result):
    one_sided, unknown = result(), result(ratio=None)
    one_sided["intervals"]["ratio"] = [0.0149, None]
    unknown["intervals"]["ratio"] = [None, None]

    table = comparison_table({"one": one_sided, "two": unknown})

    assert "0.061 [0.015, unbounded]" in table
    assert "- [unbounded, unbounded]" in table


def test_without_general_text_the_divergence_stands_for_the_loss(result):
    header, _, reference, tuned = cells(comparison_table({"mft": result(general=False)}))

    assert header == ["method", "S %", "KL(p_T‖p_S) nats", "specialized perplexity"]
    assert reference == ["reference", "-", "-", "16.10"]
    assert tuned == ["mft", "6.50 [5.90, 7.10]", "0.031", "15.05"]


def test_a_loss_that_rounds_to_nothing_has_no_sign(result):
    table = comparison_table({"mft": result(degeneralization=-0.004)})

    assert "| 0.00 [0.10, 0.70] |" in table


def test_a_bar_in_a_name_does_not_open_a_column(result):
    assert r"| a\|b " in comparison_table({"a|b": result()})


def test_results_of_other_references_are_not_compared(result):
    other = result(reference={"specialized_perplexity": 18.2, "general_perplexity": 15.2})

    with pytest.raises(InputError, match=r"one and two .* 16\.10 and 18\.20"):
        comparison_table({"one": result(), "two": other})


def test_nothing_to_compare_is_said_so():
    with pytest.raises(InputError, match="no result to compare"):
        comparison_table({})
