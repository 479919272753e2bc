import math

import pytest

from minifinetuning.errors import InputError
from minifinetuning.report import method_table


def rows(table: str) -> list[dict[str, str]]:
    header, _, *body = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()
    ]
    return [dict(zip(header, row, strict=True)) for row in body]


def test_a_row_holds_gain_loss_both_made_equal_and_cost(trial):
    results = {
        "mft": trial("mft", (0, 0), (4, 0.1), (8, 0.5)),
        "ft": trial("ft", (0, 0), (6, 1), (10, 4), learning_rate=3e-5, peak_memory_bytes=5 * 2**30),
    }

    mft, ft = rows(method_table(results, budget=1))

    assert mft == {
        "method": "mft",
        "learning rate": "1e-4",
        "S %": "8.00 [7.50, 8.50]",
        "DG %": "0.50 [0.30, 0.70]",
        "DG/S": "0.062 [0.012, 0.113]",
        "DG % at S = 8 %": "0.50",
        "best S % with DG ≤ 1 %": "8.00 at step 20",
        "tokens/s": "12,346",
        "memory GiB": "-",
        "trainable parameters": "135 M",
    }
    assert ft["learning rate"] == "3e-5"
    assert ft["DG % at S = 8 %"] == "2.50"  # half way from (6, 1) to (10, 4)
    assert ft["best S % with DG ≤ 1 %"] == "6.00 at step 10"
    assert ft["memory GiB"] == "5.00"


def test_rows_fall_by_what_the_budget_allows_and_then_by_gain(trial):
    results = {
        "too dear, gains little": trial("a", (0, 0), (5, 9)),
        "too dear, gains much": trial("b", (0, 0), (20, 9)),
        "second": trial("c", (0, 0), (6, 0.5)),
        "first": trial("d", (0, 0), (7, 0.9), (9, 2)),
    }

    assert [row["method"] for row in rows(method_table(results, budget=1))] == list("dcba")


def test_a_method_is_as_good_as_its_best_learning_rate_when_gains_are_made_equal(trial):
    results = {
        "ft slow": trial("ft", (0, 0), (1, 0.1), learning_rate=1e-6),
        "ft": trial("ft", (0, 0), (10, 4)),
        "mft": trial("mft", (0, 0), (8.47, 1)),
    }

    first, *_ = rows(method_table(results, budget=1))

    assert "DG % at S = 8.4 %" in first


def test_a_method_that_hardly_gains_does_not_set_the_equal_gain_and_never_reached_it(trial):
    results = {
        "ft": trial("ft", (0, 0), (10, 4)),
        "mft": trial("mft", (0, 0), (8, 1)),
        "ia3": trial("ia3+mft", (0, 0), (4.9, 0.2)),
    }

    at_equal_gain = {
        row["method"]: row["DG % at S = 8 %"] for row in rows(method_table(results, 1))
    }

    assert at_equal_gain == {"ft": "3.20", "mft": "1.00", "ia3+mft": "-"}


def test_where_nothing_gained_there_is_no_equal_gain(trial):
    (row,) = rows(method_table({"ft": trial("ft", (0, 0), (-3, 4))}, budget=1))

    assert not [title for title in row if " at S = " in title]
    assert row["best S % with DG ≤ 1 %"] == "-"


def test_an_evaluation_without_a_finite_number_does_not_count(trial):
    results = {"ft": trial("ft", (0, 0), (4, 0.5), (math.inf, 0.1), (None, 0.1), (9, math.nan))}

    (row,) = rows(method_table(results, budget=1))

    assert row["best S % with DG ≤ 1 %"] == "4.00 at step 10"


def test_a_blend_is_named_by_its_coefficient(blend):
    (row,) = rows(method_table({"ft+blend": blend}, budget=1))

    assert row["best S % with DG ≤ 1 %"] == "6.00 at c = 0.5"


def test_without_general_text_the_divergence_stands_for_the_loss_and_gain_sorts(result):
    results = {
        "ft": result("ft", general=False),
        "mft": result("mft", general=False, specialization=7.0),
    }

    table = rows(method_table(results, budget=1))

    assert [row["method"] for row in table] == ["mft", "ft"]
    assert table[0] == {
        "method": "mft",
        "learning rate": "1e-4",
        "S %": "7.00 [5.90, 7.10]",
        "KL(p_T‖p_S) nats": "0.031",
        "tokens/s": "230",
        "trainable parameters": "135 M",
    }


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (900, "900"),
        (37_400, "37 k"),
        (999_499, "999 k"),
        (999_500, "1.0 M"),
        (2_440_000, "2.4 M"),
        (134_515_008, "135 M"),
        (1_240_000_000, "1.2 B"),
    ],
)
def test_parameters_are_counted_as_people_do(trial, count, shown):
    results = {"ft": trial("ft", (0, 0), (4, 1), trainable_parameters=count)}

    assert rows(method_table(results, budget=1))[0]["trainable parameters"] == shown


def test_nothing_to_compare_is_said_so():
    with pytest.raises(InputError, match="no result to compare"):
        method_table({}, budget=1)
