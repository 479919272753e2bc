"""Ours, published, difference: against values worked out by hand."""

from minifinetuning.lab.paper.cells import paper_cell
from minifinetuning.lab.paper.plan import plan_of
from minifinetuning.lab.paper.tables import table_reports


def result(gained, lost):
    return {
        "specialization": gained,
        "degeneralization": lost,
        "ratio": lost / gained,
        "intervals": {"level": 0.95},
        "validation": {"specialized": {"documents": 30, "sequences": 9, "tokens": 900}},
    }


def cells_of(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_ours_stand_beside_the_published_values_with_the_difference():
    plan = plan_of(table=3, model="OpenELM 270M")
    mft = paper_cell("OpenELM 270M", "MFT", "Pile of Law")
    text = table_reports(plan.rows, {mft: result(12.04, 0.26)})[3]
    heading, _, header, _, *rows, _, said = text.splitlines()
    assert said.startswith("Pile of Law: Measured on 30 documents of specialized text")
    assert heading == "Table 3: 1 of 4 rows are done."
    assert cells_of(header)[3:6] == ["S % ours", "published", "difference"]
    assert cells_of(rows[3]) == [
        *("OpenELM 270M", "Pile of Law", "MFT"),
        *("12.0", "11.5", "+0.5"),
        *("0.3", "0.3", "+0.0"),
        *("0.02", "0.03", "-0.01"),
    ]
    assert cells_of(rows[0]) == [
        *("OpenELM 270M", "Pile of Law", "FT"),
        *("", "14.5", "", "", "1.2", "", "", "0.08", ""),
    ]


def test_a_ratio_that_was_not_published_has_no_difference():
    plan = plan_of(table=10, model="Minitron 4B", dataset="OpenWebMath", method="IA3")
    cell = plan.cells[0]
    (row, *_) = table_reports(plan.rows, {cell: result(0.5, 0.1)})[10].splitlines()[4:]
    assert cells_of(row)[-3:] == ["0.20", "", ""]


def test_a_stand_in_is_said_to_be_one():
    text = table_reports(plan_of(table=8, model="tiny").rows, {})[8]
    assert "The paper has no tiny here: beside it stand the values of OpenELM 270M" in text
    assert "0 of 11 rows are done" in text
    assert "stand" not in table_reports(plan_of(table=8, model="OpenELM 450M").rows, {})[8]
    text = table_reports(plan_of(table=3, model="OpenELM 450M", dataset="PubMed").rows, {})[3]
    assert "The paper has no PubMed here: beside it stand the values of Pile of Law, " in text
    text = table_reports(plan_of(table=3, model="tiny", dataset="PubMed").rows, {})[3]
    assert "no tiny and no PubMed here: beside it stand the values of OpenELM 270M on Pile" in text


def test_the_row_of_a_knob_is_named_by_it():
    text = table_reports(plan_of(table=7, model="OpenELM 270M").rows, {})[7]
    assert [cells_of(line)[2] for line in text.splitlines()[4:]] == [
        f"ν = {tenth}0%" for tenth in range(10, 0, -1)
    ]
