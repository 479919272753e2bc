"""What is drawn is what was measured: read back from the picture's own text and marks."""

import re

import pytest

from minifinetuning.lab.paper.figures import models_drawn, save_paper_figure
from minifinetuning.lab.paper.plan import FIGURES
from minifinetuning.lab.paper.protocol import PAPER


def results_of(figure, model):
    """Made up, with another S for every cell."""
    cells = figure.cells([model])
    return {
        cell: {
            "specialization": 5.0 + number,
            "degeneralization": 0.5,
            "ratio": 0.5 / (5.0 + number),
            "history": [
                {"step": 0, "specialization": 0.0, "degeneralization": 0.0},
                {"step": 50, "specialization": 3.0, "degeneralization": 0.2, "ratio": 0.07},
                {"step": 100, "specialization": -1.0, "degeneralization": 0.5, "ratio": -0.5},
            ],
        }
        for number, cell in enumerate(cells)
    }


def marks(svg):
    """How often a marker is drawn."""
    return len(re.findall(r"<use ", svg))


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (2, ["FT: S %", "MFT: DG %", "1,000,000 tokens", "8,000,000 tokens"]),
        (4, ["MFT, τ", "Replay, ν (published)", "DoRA, r / 200", "DG/S"]),
        (5, ["FT: DG/S", "MFT: DG/S", "2,000,000 tokens"]),
        (6, ["S %", "DG %", "DG/S", "Replay, ν (published)"]),
        (7, ["DoRA, r / 200", "OpenELM 1.1B"]),
    ],
)
def test_each_figure_is_drawn_with_its_lines(tmp_path, number, words):
    figure = FIGURES[number]
    model = figure.models[-1]
    path = tmp_path / "figure.svg"
    save_paper_figure(figure, model, results_of(figure, model), PAPER, path)
    svg = path.read_text()
    for word in words:
        assert word in svg


def test_a_cell_that_is_not_done_is_left_out(tmp_path):
    figure = FIGURES[5]
    results = results_of(figure, "OpenELM 270M")
    save_paper_figure(figure, "OpenELM 270M", results, PAPER, tmp_path / "whole.svg")
    results.pop(next(iter(results)))
    save_paper_figure(figure, "OpenELM 270M", results, PAPER, tmp_path / "part.svg")
    whole, part = ((tmp_path / name).read_text() for name in ("whole.svg", "part.svg"))
    # Three evaluations of S and DG, one of DG/S, which has no meaning where S is not above 0; and
    # the mark in the legend.
    assert marks(whole) - marks(part) == 3 + 3 + 1 + 1


def test_a_few_budgets_keep_their_colours(tmp_path):
    whole, narrowed = FIGURES[5], FIGURES[5].only([0.5])
    results = results_of(whole, "OpenELM 270M")
    for name, figure in (("whole.svg", whole), ("part.svg", narrowed)):
        save_paper_figure(figure, "OpenELM 270M", results, PAPER, tmp_path / name)
    colours = [
        {*re.findall(r"stroke: (#[0-9a-f]{6})", (tmp_path / n).read_text())}
        for n in ("whole.svg", "part.svg")
    ]
    assert "#5aa2cf" in colours[1]
    assert colours[0] - colours[1] == {"#a6cee3", "#1f6fae", "#08306b"}


def test_a_figure_is_drawn_for_models_that_have_a_cell_of_it():
    figure = FIGURES[6]
    results = results_of(figure, "OpenELM 450M")
    assert models_drawn(figure.models, figure, results) == ["OpenELM 450M"]
    assert models_drawn(figure.models, figure, {}) == []


def test_a_model_that_the_paper_lacks_has_no_published_marks(tmp_path):
    figure = FIGURES[6]
    save_paper_figure(figure, "tiny", results_of(figure, "tiny"), PAPER, tmp_path / "f.svg")
    assert "published" not in (tmp_path / "f.svg").read_text()
