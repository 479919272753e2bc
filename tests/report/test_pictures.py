import re
import sys
from collections import Counter

import numpy
import pytest
from matplotlib.image import imread

from minifinetuning.errors import InputError
from minifinetuning.report import save_dynamics, save_frontier

SAVES = pytest.mark.parametrize("save", [save_frontier, save_dynamics])


@SAVES
def test_a_png_shows_something(save, result, tmp_path):
    path = tmp_path / "picture.png"

    save({"ft": result("ft", degeneralization=3.0), "mft": result()}, path)

    height, width, _ = imread(path).shape
    assert height > 600
    assert width > 1000
    assert 0.005 < numpy.mean(imread(path)[..., :3].min(-1) < 0.9) < 0.3  # ink
    assert list(tmp_path.iterdir()) == [path]


@SAVES
def test_an_svg_holds_its_words_and_is_the_same_every_time(save, result, tmp_path):
    results = {"plain": result("ft", degeneralization=3.0), "corrected": result()}
    for name in ("one.svg", "two.svg"):
        save(results, tmp_path / name)

    text = (tmp_path / "one.svg").read_text()
    for words in ("plain", "corrected", "higher is better", "lower is better"):
        assert words in text
    assert text == (tmp_path / "two.svg").read_text()


def test_finetuning_is_orange_and_minifinetuning_blue_in_any_order(result, tmp_path):
    for order in (("ft", "mft"), ("mft", "ft")):
        path = tmp_path / "picture.svg"
        save_frontier({f"the {method}": result(method) for method in order}, path)
        labels = [line for line in path.read_text().splitlines() if ">the " in line]
        colours = {"#d55e00" in line: "the ft" in line for line in labels}
        assert colours == {True: True, False: False}
        assert all("#d55e00" in line or "#0072b2" in line for line in labels)


@pytest.fixture
def many(trial):
    """Twenty results, of which two end at one point."""
    methods = ("ft", "mft", "lora", "lora+mft", "kl")
    ends = {
        f"{method} no. {number}": (method, 4.0 + number, 0.5 + number / 4)
        for method in methods
        for number in range(4)
    }
    return {
        name: trial(method, (0, 0), (gain / 2, loss / 3), (gain, loss), learning_rate=1e-4 / gain)
        for name, (method, gain, loss) in ends.items()
    }


@SAVES
def test_many_results_are_named_once_each_beside_the_axes(save, many, tmp_path):
    save(many, tmp_path / "many.svg")
    save({name: many[name] for name in list(many)[:2]}, tmp_path / "two.svg")

    names = Counter(re.findall(r">([^<>]+ no\. \d)</text>", (tmp_path / "many.svg").read_text()))
    assert names == dict.fromkeys(many, 1)
    assert width(tmp_path / "many.svg") > width(tmp_path / "two.svg")


def width(path):
    return float(re.search(r'<svg [^>]*width="([\d.]+)pt"', path.read_text(), re.S)[1])


def test_an_adapter_is_dashed_in_the_colour_of_its_objective(result, tmp_path):
    save_frontier({"mft": result("mft"), "lora+mft": result("lora+mft")}, tmp_path / "frontier.svg")

    styles = re.findall(
        r'style="([^"]*stroke-width: 1.8[^"]*)"', (tmp_path / "frontier.svg").read_text()
    )
    assert ["stroke: #0072b2" in style for style in styles] == [True, True]
    assert ["dasharray" in style for style in styles] == [False, True]


@SAVES
def test_a_budget_in_view_is_drawn_and_named(save, result, tmp_path):
    results = {"ft": result("ft", degeneralization=3.0), "mft": result()}
    for budget in (1, 500, -500):
        save(results, tmp_path / f"{budget}.svg", budget=budget)

    texts = {path.stem: path.read_text() for path in tmp_path.iterdir()}
    assert "budget, DG ≤ 1 %" in texts["1"]
    assert "budget" not in texts["500"] + texts["-500"]


def test_an_axis_that_is_narrowed_says_so(trial, tmp_path):
    results = {name: trial(name, (0, 0), (8, 0.3)) for name in ("mft", "kl", "dft")}
    save_frontier(results, tmp_path / "even.svg")
    save_frontier(results | {"ft": trial("ft", (0, 0), (9, 40))}, tmp_path / "uneven.svg")

    assert "narrows" not in (tmp_path / "even.svg").read_text()
    assert "the scale narrows to the right" in (tmp_path / "uneven.svg").read_text()


def test_a_blend_has_no_steps_to_draw_over(result, blend, tmp_path):
    results = {"mft": result(), "a blend": blend}
    save_frontier(results, tmp_path / "frontier.svg")
    save_dynamics(results, tmp_path / "dynamics.svg")

    texts = (tmp_path / "frontier.svg").read_text()
    assert ">a blend</text>" in texts
    assert ">c = 0.5</text>" in texts
    assert ">a blend</text>" not in (tmp_path / "dynamics.svg").read_text()


def test_without_general_text_the_dynamics_have_one_panel_and_there_is_no_frontier(
    result, tmp_path
):
    results = {"mft": result(general=False)}
    save_dynamics(results, tmp_path / "dynamics.svg")

    assert "DG" not in (tmp_path / "dynamics.svg").read_text()
    with pytest.raises(InputError, match="mft was measured without general text"):
        save_frontier(results, tmp_path / "frontier.svg")
    assert [path.name for path in tmp_path.iterdir()] == ["dynamics.svg"]


def test_a_result_without_history_is_its_star(result, tmp_path):
    save_frontier({"mft": result(history=[])}, tmp_path / "frontier.svg")

    assert "step 40" in (tmp_path / "frontier.svg").read_text()


@SAVES
def test_another_ending_is_refused(save, result, tmp_path):
    with pytest.raises(InputError, match=r"end its name in \.png or \.svg"):
        save({"mft": result()}, tmp_path / "picture.pdf")
    assert not list(tmp_path.iterdir())


@SAVES
def test_a_failure_keeps_the_older_picture(save, result, tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    path.write_bytes(b"older")

    def fail(_figure, target, **_settings):
        target.write_bytes(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(OSError, match="full"):
        save({"mft": result()}, path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {path.name: b"older"}


def test_pyplot_is_never_touched(result, tmp_path):
    before = "matplotlib.pyplot" in sys.modules
    save_frontier({"mft": result()}, tmp_path / "frontier.png")

    assert ("matplotlib.pyplot" in sys.modules) == before
