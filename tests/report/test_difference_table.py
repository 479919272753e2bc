"""Methods held against the first: what is shown is what was measured, signs and all."""

import re

import pytest

from minifinetuning.report import comparison_page, difference_table


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.fixture
def results(result):
    difference = {
        **{"from": "ft", "specialization": -3.2, "degeneralization": 0.0, "ratio": 0.071},
        "intervals": {
            **{"level": 0.95, "specialization": [-3.9, -2.5], "degeneralization": [-0.4, 0.4]},
            "ratio": [None, None],
        },
    }
    return {"ft": result("ft"), "mft": result("mft", difference=difference)}


def test_each_other_method_is_a_row_with_its_signs_and_intervals(results):
    header, _, *rows = difference_table(results).splitlines()
    assert cells(header) == ["compared with ft", "S, points", "DG, points", "DG/S"]
    assert [cells(row) for row in rows] == [
        [
            *("mft", "-3.20 [-3.90, -2.50]", "+0.00 [-0.40, 0.40]"),
            "+0.071 [unbounded, unbounded]",
        ]
    ]


def test_without_general_text_s_alone_is_compared(result):
    difference = {"from": "ft", "specialization": 1.0, "degeneralization": None, "ratio": None}
    intervals = {"specialization": [0.5, 1.5], "degeneralization": None, "ratio": None}
    difference["intervals"] = intervals
    results = {
        "ft": result("ft", general=False),
        "mft": result("mft", general=False, difference=difference),
    }
    header, _, row = difference_table(results).splitlines()
    assert cells(header) == ["compared with ft", "S, points"]
    assert cells(row) == ["mft", "+1.00 [0.50, 1.50]"]


def test_there_is_no_table_without_another_method(result):
    assert difference_table({"ft": result("ft")}) is None
    # Two methods that have no seed in common.
    assert difference_table({"ft": result("ft"), "mft": result(difference=None)}) is None


def test_the_page_has_it_too_and_sorts_the_other_table_alone(results):
    page = comparison_page(results, 1.0, "a title")
    assert "gained and lost more than ft, in percent points" in page
    assert "[-3.90, -2.50]" in page
    assert page.count('<tr tabindex="0" data-line=') == 2
    assert len(re.findall('<th scope="col">(?!<button)', page)) == 4
    assert "Table 2" not in comparison_page({"ft": results["ft"]}, 1.0, "a title")
