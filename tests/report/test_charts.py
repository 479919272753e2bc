import pytest

from minifinetuning.report.charts import charts_of
from minifinetuning.report.layout import LOSS


@pytest.fixture
def results(trial):
    return {
        "ft": trial("ft", (0, 0), (6, 1), (10, 4)),
        "mft": trial("mft", (0, 0), (4, 0.1), (8, 0.5)),
    }


def test_lines_come_in_the_order_that_is_asked_for_and_stand_within_the_chart(results):
    for chart in charts_of(results, ["mft", "ft"], budget=1):
        assert [line.name for line in chart.lines] == ["mft", "ft"]
        for line in chart.lines:
            for left, top in map(chart.spot, [line.kept, *line.points]):
                assert 0 <= left <= 100
                assert 0 <= top <= 100


def test_left_is_little_and_top_is_much(results):
    frontier, *_ = charts_of(results, list(results), budget=1)

    ft, mft = frontier.lines
    (ft_left, ft_top), (mft_left, mft_top) = frontier.spot(ft.kept), frontier.spot(mft.kept)
    assert mft_left < ft_left
    assert ft_top < mft_top
    assert frontier.path(ft).count("L") == 2


def test_what_is_out_of_view_has_no_mark_and_what_was_kept_only_a_star(trial):
    results = {"ft": trial("ft", (0, 0), (10, 4), (-300, 90))}

    frontier, *_ = charts_of(results, ["ft"], budget=1)

    (line,) = frontier.lines
    assert frontier.marks(line) == [((0, 0), "step 0 · S 0.00 % · DG 0.00 %")]
    assert frontier.about_star(line) == "step 10 (kept) · S 10.00 % · DG 4.00 %"
    assert frontier.path(line).count("L") == 2


@pytest.mark.parametrize("budget", [1, 500])
def test_a_budget_is_named_where_it_is_in_view(results, budget):
    for chart in charts_of(results, list(results), budget):
        has_loss = LOSS in (chart.across, chart.upward)
        assert (chart.budget_name() is not None) == (has_loss and budget == 1)


def test_the_name_of_a_budget_at_the_right_stands_on_its_left(trial):
    results = {"mft": trial("mft", (0, 0), (8, 0.9))}

    frontier, *_ = charts_of(results, ["mft"], budget=1)

    assert frontier.budget_name()[2].horizontal == "right"


@pytest.mark.parametrize("size", ["wide", "narrow"])
def test_many_names_make_way_and_few_are_all_there(trial, size):
    few = {f"mft {index}": trial("mft", (0, 0), (8, 0.5)) for index in range(4)}
    frontier, gain, _ = charts_of(few, list(few), budget=1)
    assert frontier.names(size).keys() == gain.names(size).keys() == few.keys()
    assert len(set(frontier.names(size).values())) == 4  # all have one star

    many = {f"mft {index}": trial("mft", (0, 0), (8, 0.5)) for index in range(20)}
    frontier, gain, _ = charts_of(many, list(many), budget=1)
    assert 0 < len(frontier.names(size)) < 20
    assert gain.names(size) == {}


def test_a_wide_chart_has_more_ticks_than_a_narrow_one(results):
    frontier, *_ = charts_of(results, list(results), budget=1)

    assert len(frontier.ticks("wide")[0]) > len(frontier.ticks("narrow")[0]) > 1


def test_a_result_without_history_stands_at_its_step(result):
    _, gain, _ = charts_of({"mft": result(history=[])}, ["mft"], budget=1)

    assert gain.spot(gain.lines[0].kept)[0] == 100
