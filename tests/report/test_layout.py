from itertools import pairwise

import pytest

from minifinetuning.report.layout import GAIN, LOSS, Axis, Box, Labels, axes_of, lines_of


def test_stars_intervals_and_the_way_to_them_are_in_view(trial):
    results = {"ft": trial("ft", (0, 0), (6, 1), (10, 4)), "mft": trial("mft", (0, 0), (8, 0.1))}

    axes = axes_of(results, budget=None)

    assert axes[GAIN].low < 0
    assert axes[GAIN].high > 10.5
    assert axes[LOSS].low < 0.1 - 0.2
    assert 4.2 < axes[LOSS].high < 5
    assert axes[LOSS].width is None


def test_what_was_lost_long_after_the_step_kept_leaves_the_view(trial):
    results = {"ft": trial("ft", (0, 0), (10, 4), (-300, 90))}

    axes = axes_of(results, budget=None)

    assert -10 < axes[GAIN].low < 0
    assert 4.2 < axes[LOSS].high < 10


@pytest.mark.parametrize(("budget", "is_seen"), [(1, True), (7, True), (100, False)])
def test_a_budget_that_somebody_came_near_is_in_view(trial, budget, is_seen):
    axes = axes_of({"ft": trial("ft", (0, 0), (10, 4))}, budget)

    assert (budget < axes[LOSS].high) == is_seen


def test_the_axis_of_loss_is_narrowed_where_one_result_lost_many_times_the_others(trial):
    cheap = {f"mft {index}": trial("mft", (0, 0), (8, 0.3)) for index in range(3)}
    dear = {"ft": trial("ft", (0, 0), (10, 40))}

    assert axes_of(cheap, None)[LOSS].width is None
    axes = axes_of(cheap | dear, None)
    assert axes[LOSS].width == pytest.approx(0.5)

    ticks = axes[LOSS].ticks(spacing=0.1)
    places = [axes[LOSS].place(tick) for tick in ticks]
    assert 0 in ticks
    assert ticks == sorted(ticks)
    assert all(0 <= share <= 1 for share in places)
    assert min(after - before for before, after in pairwise(places)) >= 0.1 - 1e-9


def test_a_narrowed_axis_is_linear_near_zero_and_logarithmic_far_above():
    axis = Axis(0, 1e6, width=1)

    assert axis.place(0) == 0
    assert axis.place(1e6) == 1
    assert axis.place(0.02) == pytest.approx(2 * axis.place(0.01), rel=1e-3)
    steps = [axis.place(10 * value) - axis.place(value) for value in (1e2, 1e4)]
    assert steps[0] == pytest.approx(steps[1], rel=1e-3)


@pytest.mark.parametrize(
    ("low", "high", "spacing", "ticks"),
    [
        (-1, 11.3, 0.1, [0, 2, 4, 6, 8, 10]),
        (-0.4, 0.4, 0.25, [-0.4, -0.2, 0, 0.2, 0.4]),
        (0, 120_000, 0.2, [0, 50_000, 100_000]),
        (-1e12, 0, 0.4, [-1e12, -5e11, 0]),
        (0, 2e-5, 0.4, [0, 1e-5, 2e-5]),
    ],
)
def test_ticks_of_a_linear_axis_are_multiples_of_one_two_or_five(low, high, spacing, ticks):
    assert Axis(low, high).ticks(spacing) == ticks


def test_without_general_text_there_is_only_gain(result):
    axes = axes_of({"ft": result("ft", general=False)}, budget=1)

    assert LOSS not in axes
    assert axes[GAIN].high > 7.1


def test_a_line_has_its_evaluations_and_the_intervals_of_the_step_kept(trial):
    results = {"ft": trial("ft", (0, 0), (6, 1), (10, 4), (-float("inf"), float("inf")))}

    (line,) = lines_of(results, LOSS, GAIN)
    assert line.points == [(0, 0), (1, 6), (4, 10)]
    assert line.kept == (4, 10)
    assert line.bars == [[(3.8, 10), (4.2, 10)], [(4, 9.5), (4, 10.5)]]

    results["ft"]["intervals"]["degeneralization"] = [None, None]
    (line,) = lines_of(results, "step", LOSS)
    assert line.points == [(0, 0), (10, 1), (20, 4)]
    assert line.bars == [[(20, 4), (20, 4)]]


def test_a_result_without_the_quantity_and_a_blend_over_steps_have_no_line(result, blend):
    results = {"ft": result("ft"), "mft": result("mft", general=False), "a blend": blend}

    def names(across, upward):
        return [line.name for line in lines_of(results, across, upward)]

    assert names(LOSS, GAIN) == ["ft", "a blend"]
    assert names("step", GAIN) == ["ft", "mft"]
    assert names("step", LOSS) == ["ft"]


def boxes(labels, *points, optional=False):
    """What texts of 40 by 10 pixels cover beside these points; None where one has no room."""
    placements = [labels.place(point, (40, 10), optional=optional) for point in points]
    pairs = zip(points, placements, strict=True)
    return [placement and placement.box(point, (40, 10), unit=1) for point, placement in pairs]


def test_labels_of_one_point_do_not_lie_on_each_other():
    found = boxes(Labels(unit=1), *[(100, 100)] * 4)

    assert not any(one.overlaps(other) for i, one in enumerate(found) for other in found[:i])


def test_a_label_keeps_off_a_line_and_off_a_box():
    labels = Labels(unit=1)
    labels.avoid_line([(100, 100), (200, 100)])
    taken = Box(100, 100, 160, 160)
    labels.avoid_box(taken)

    (box,) = boxes(labels, (100, 100))

    assert box.top < 100 or box.right < 100
    assert not box.overlaps(taken)


def test_a_label_stays_within_its_frame():
    (box,) = boxes(Labels(unit=1, frame=Box(0, 0, 120, 105)), (100, 100))

    assert box.right <= 120
    assert box.top <= 105


def test_a_line_of_any_length_is_avoided():
    labels = Labels(unit=1)
    labels.avoid_line([(100, 100), (1e15, 100)])

    assert boxes(labels, (100, 100)) != [None]


def test_an_optional_label_without_room_is_left_out():
    labels = Labels(unit=1)
    for height in range(0, 200, 4):
        labels.avoid_line([(0, height), (200, height)])

    assert boxes(labels, (100, 100), optional=True) == [None]
    assert boxes(labels, (100, 100)) != [None]
