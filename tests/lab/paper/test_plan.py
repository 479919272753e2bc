"""Every published value has a cell, and a cell is one training."""

import json
from itertools import product
from pathlib import Path

import pytest

from minifinetuning.errors import InputError
from minifinetuning.lab.methods import parsed_methods
from minifinetuning.lab.paper.cells import METHODS, paper_cell, published_values, slug
from minifinetuning.lab.paper.models import PAPER_MODELS, paper_model
from minifinetuning.lab.paper.plan import FIGURES, plan_of

SHARED = Path(__file__).parents[4] / "shared/paper/published.json"

OPENELM = ["OpenELM 270M", "OpenELM 450M", "OpenELM 1.1B"]
DOMAINS = ["PubMed", "Pile of Law", "OpenWebMath"]
WITH_MFT = ["FT", "MFT", "Replay", "Replay+MFT", "LoRA", "LoRA+MFT", "DoRA", "DoRA+MFT"]
# Read off the paper's pages: models, rows of a model, domains.
GRIDS = {
    2: (OPENELM, ["FT", "LoRA", "DoRA", "IA3", "MFT", "Replay"], DOMAINS),
    3: (OPENELM, ["FT", "corrective finetuning", "single correction", "MFT"], ["Pile of Law"]),
    4: (OPENELM, [*WITH_MFT, "IA3", "IA3+MFT"], DOMAINS),
    5: (
        ["Llama 3.1 8B", "Llama 3.2 1B", "Llama 3.2 3B"],
        ["FT", "LoRA", "DoRA", "IA3", "MFT", "Replay", "EWC"],
        DOMAINS,
    ),
    6: (["GPT Neo 2.7B", "Phi 1.5", "Phi 2"], WITH_MFT, DOMAINS),
    7: (OPENELM, [f"ν = {tenth}0%" for tenth in range(1, 11)], ["Pile of Law"]),
    8: (OPENELM, [f"τ = {tenth / 10:g}" for tenth in range(11)], ["Pile of Law"]),
    9: (
        OPENELM,
        [f"r = {rank}" for rank in (1, 4, 8, 16, 24, 32, 64, 128, 160, 192, 256)],
        ["Pile of Law"],
    ),
    10: (
        ["Gemma 2B", "Minitron 4B", "LLaMA 2 7B"],
        ["LoRA", "LoRA+MFT", "DoRA", "DoRA+MFT", "IA3", "IA3+MFT"],
        DOMAINS,
    ),
}


def test_all_441_values_are_there_and_have_a_cell():
    rows = published_values()
    found = {(row.table, row.cell.model, row.label, row.cell.dataset) for row in rows}
    expected = {(table, *place) for table, grid in GRIDS.items() for place in product(*grid)}
    assert found == expected
    assert len(rows) == len(expected) == 441
    assert {row.cell for row in rows} <= {*plan_of().cells}


def test_values_are_those_of_the_paper():
    values = {
        (row.table, row.cell.model, row.label, row.cell.dataset): (
            row.specialization,
            row.degeneralization,
            row.ratio,
        )
        for row in published_values()
    }
    # A row of each kind, read off the paper.
    assert values[2, "OpenELM 270M", "MFT", "PubMed"] == (8.5, 0.3, 0.03)
    assert values[5, "Llama 3.2 1B", "EWC", "Pile of Law"] == (11.0, 4.9, 0.45)
    assert values[7, "OpenELM 1.1B", "ν = 90%", "Pile of Law"] == (16.3, 0.3, 0.02)
    assert values[8, "OpenELM 450M", "τ = 0", "Pile of Law"] == (9.1, 0.2, 0.02)
    assert values[9, "OpenELM 270M", "r = 256", "Pile of Law"] == (21.1, 5.1, 0.24)
    assert values[10, "Minitron 4B", "IA3", "OpenWebMath"] == (0.0, 0.0, None)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="the published values are not beside the project")
def test_the_packaged_figures_are_those_carried_over():
    shared = json.loads(SHARED.read_text())
    packaged = [
        (
            *(row.table, row.cell.model, row.method, row.cell.dataset),
            *(row.tau, row.new_data_fraction, row.rank),
            *(row.specialization, row.degeneralization, row.ratio),
        )
        for row in published_values()
    ]
    assert packaged == [
        (
            *(row["table"], row["model"], row["method"], row["dataset"]),
            *(row.get("tau"), row.get("nu"), row.get("rank")),
            *(row["S"], row["DG"], row["ratio"]),
        )
        for row in shared
    ]


def test_the_same_training_is_one_cell():
    cells = plan_of().cells
    assert len({*cells}) == len(cells)
    finetuning = paper_cell("OpenELM 270M", "FT", "Pile of Law")
    for table, label in ((2, "FT"), (3, "FT"), (7, "ν = 100%"), (8, "τ = 1")):
        (row,) = [
            row
            for row in published_values()
            if (row.table, row.label) == (table, label)
            and (row.cell.model, row.cell.dataset) == ("OpenELM 270M", "Pile of Law")
        ]
        assert row.cell == finetuning
    half = paper_cell("OpenELM 270M", "Replay", "Pile of Law", new_data_fraction=0.5)
    assert half == paper_cell("OpenELM 270M", "Replay", "Pile of Law")
    assert paper_cell("m", "DoRA", "PubMed", rank=8) == paper_cell("m", "DoRA", "PubMed")
    assert paper_cell("m", "MFT", "PubMed", tau=0.0).tau == 0.0


def test_cells_have_names_of_their_own():
    cells = plan_of().cells
    assert len({(slug(cell.model), cell.dataset, cell.name) for cell in cells}) == len(cells)
    assert len({str(cell) for cell in cells}) == len(cells)
    assert paper_cell("m", "MFT", "PubMed", tau=0.5).name == "mft-tau0.5"
    assert slug("OpenELM 1.1B") == "openelm-1.1b"


def test_every_method_and_model_of_the_tables_can_be_run():
    for row in published_values():
        assert row.cell.model in PAPER_MODELS
        (method,) = parsed_methods(METHODS[row.cell.method])
        assert method.name
    assert parsed_methods(METHODS["corrective finetuning"])[0].objective == "corrective"
    assert parsed_methods(METHODS["Replay+MFT"])[0].replay == "replay"


@pytest.mark.parametrize(
    ("number", "lines", "cells"),
    # tau = 1 and nu = 1 are the same finetuning: one cell less for each model of figures 4 and 6.
    [(2, 2, 8), (4, 3, 11 + 10 + 11 - 1), (5, 2, 8), (6, 2, 3 * (11 + 10 - 1)), (7, 2, 22)],
)
def test_figures_have_their_lines(number, lines, cells):
    figure = FIGURES[number]
    assert len(figure.lines) == lines
    assert len(figure.cells(figure.models)) == cells
    for line in figure.lines:
        assert len(line.values) == len(line.cells("x", figure.dataset))


def test_scarcity_has_a_quarter_to_twice_the_text():
    shares = {cell.data_share for cell in plan_of(figure=5).cells}
    assert shares == {0.25, 0.5, None, 2.0}
    assert {cell.model for cell in plan_of(figure=5).cells} == {"OpenELM 270M"}


def test_a_choice_narrows_the_plan():
    assert len(plan_of(table=3).cells) == 12
    assert len(plan_of(table=3, model="OpenELM 450M").cells) == 4
    assert len(plan_of(table=2, dataset="PubMed", method="MFT").cells) == 3
    assert {row.label for row in plan_of(table=8, model="OpenELM 270M").rows} == {
        f"τ = {tenth / 10:g}" for tenth in range(11)
    }
    assert {cell.model for cell in plan_of(figure=6, model="OpenELM 270M").cells} == {
        "OpenELM 270M"
    }


def test_another_model_stands_in_for_the_first_of_a_table():
    plan = plan_of(table=3, model="tiny")
    assert [row.cell.model for row in plan.rows] == ["tiny"] * 4
    published = plan_of(table=3, model="OpenELM 270M")
    assert [row.specialization for row in plan.rows] == [
        row.specialization for row in published.rows
    ]
    assert {cell.model for cell in plan_of(table=10, model="tiny").cells} == {"tiny"}


def test_another_dataset_stands_in_for_the_only_one_of_a_table_or_figure():
    plan = plan_of(table=3, model="OpenELM 270M", dataset="PubMed")
    assert {row.cell.dataset for row in plan.rows} == {"PubMed"}
    assert [row.specialization for row in plan.rows] == [
        row.specialization for row in plan_of(table=3, model="OpenELM 270M").rows
    ]
    assert {cell.dataset for cell in plan_of(figure=5, dataset="OpenWebMath").cells} == {
        "OpenWebMath"
    }
    # Where the paper has more than one, a dataset chooses among them; of everything too.
    assert len(plan_of(table=2, dataset="PubMed").rows) == 18
    chosen = plan_of(dataset="PubMed").rows
    assert {row.table for row in chosen} == {2, 4, 5, 6, 10}


def test_a_few_values_of_what_is_varied():
    taus = plan_of(table=8, model="OpenELM 270M", values=[0.1, 1.0])
    assert [row.label for row in taus.rows] == ["τ = 1", "τ = 0.1"]
    assert [cell.method for cell in taus.cells] == ["FT", "MFT"]
    shares = plan_of(figure=5, values=[0.25, 1])
    assert [cell.name for cell in shares.cells] == ["ft-data0.25", "ft", "mft-data0.25", "mft"]
    ((figure, _),) = plan_of(figure=7, values=[0.5, 64]).figures
    assert [(line.name, line.values, line.full) for line in figure.lines] == [
        ("MFT, τ", (0.5,), 1),
        ("DoRA, r / 200", (64,), 200),
    ]
    assert {row.table for row in plan_of(values=[0.5]).rows} == {7, 8}


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ({"table": 11}, "--table 11 is not there: choose one of 2, 3"),
        ({"figure": 3}, "--figure 3 is not there: choose one of 2, 4, 5, 6, 7"),
        ({"table": 3, "method": "Replay"}, "nothing of the paper is left"),
        ({"table": 8, "values": [0.25]}, "nothing of the paper is left"),
        ({"figure": 5, "values": [3.0]}, "nothing of the paper is left"),
        ({"table": 2, "model": "Phi 2"}, "nothing of the paper is left"),
    ],
)
def test_what_the_paper_does_not_have_is_one_sentence(choice, sentence):
    with pytest.raises(InputError, match=sentence):
        plan_of(**choice)


def test_an_unknown_method_or_model_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="--method Magic is not known: choose one of FT, "):
        paper_cell("m", "Magic", "PubMed")
    with pytest.raises(InputError, match="--model GPT 9 is not known: give a folder, a hub id"):
        paper_model("GPT 9")
    assert paper_model("openelm 1.1b").hub == "apple/OpenELM-1_1B"
    assert paper_model(str(tmp_path)).hub == str(tmp_path)
    assert paper_model("owner/name").name == "name"
