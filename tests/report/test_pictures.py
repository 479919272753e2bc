import sys

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
