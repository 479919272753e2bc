import math
from itertools import pairwise

import pytest

from minifinetuning.report.view import view_of


def test_stars_intervals_and_the_way_to_them_are_in_view(trial):
    results = {"ft": trial("ft", (0, 0), (6, 1), (10, 4)), "mft": trial("mft", (0, 0), (8, 0.1))}

    view = view_of(results, budget=None)

    assert view.gain[0] < 0
    assert view.gain[1] > 10.5
    assert view.loss[0] < 0.1 - 0.2
    assert 4.2 < view.loss[1] < 5
    assert view.loss_width is None


def test_what_was_lost_long_after_the_step_kept_leaves_the_view(trial):
    results = {"ft": trial("ft", (0, 0), (10, 4), (-300, 90))}

    view = view_of(results, budget=None)

    assert -10 < view.gain[0] < 0
    assert 4.2 < view.loss[1] < 10


@pytest.mark.parametrize(("budget", "is_seen"), [(1, True), (7, True), (100, False)])
def test_a_budget_that_somebody_came_near_is_in_view(trial, budget, is_seen):
    view = view_of({"ft": trial("ft", (0, 0), (10, 4))}, budget)

    assert (budget < view.loss[1]) == is_seen


def test_the_axis_of_loss_is_narrowed_where_one_result_lost_many_times_the_others(trial):
    cheap = {f"mft {index}": trial("mft", (0, 0), (8, 0.3)) for index in range(3)}
    dear = {"ft": trial("ft", (0, 0), (10, 40))}

    assert view_of(cheap, None).loss_width is None
    view = view_of(cheap | dear, None)
    assert view.loss_width == pytest.approx(0.5)

    def place(loss):
        low, high = (math.asinh(bound / view.loss_width) for bound in view.loss)
        return (math.asinh(loss / view.loss_width) - low) / (high - low)

    ticks = view.loss_ticks(spacing=0.1)
    places = [place(tick) for tick in ticks]
    assert 0 in ticks
    assert ticks == sorted(ticks)
    assert all(0 <= share <= 1 for share in places)
    assert min(after - before for before, after in pairwise(places)) >= 0.1 - 1e-9


def test_without_general_text_there_is_only_gain(result):
    view = view_of({"ft": result("ft", general=False)}, budget=1)

    assert view.loss is None
    assert view.gain[1] > 7.1
