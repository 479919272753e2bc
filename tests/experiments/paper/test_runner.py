"""Cells of the paper from end to end, on a model and texts that take seconds."""

import json
from dataclasses import replace

import pytest

from minifinetuning.errors import InputError
from minifinetuning.experiments.paper.cells import paper_cell
from minifinetuning.experiments.paper.plan import Plan
from minifinetuning.experiments.paper.report import write_paper_report
from minifinetuning.experiments.paper.reproduction import Machine
from minifinetuning.experiments.paper.runner import reproduce
from minifinetuning.experiments.paper.runs import CellTask
from minifinetuning.experiments.processes import in_this_process, one_by_one

pytestmark = pytest.mark.filterwarnings("default")

HERE = one_by_one(in_this_process)


def with_cells(reproduction, *cells):
    """The reproduction of these cells, whatever its tables are."""

    class Cells(Plan):
        @property
        def cells(self):
            return [*cells]

    return replace(reproduction, plan=Cells([], []))


def test_the_ablation_runs_from_end_to_end(reproduction, own_cache, tmp_path):
    asked = reproduction(table=3)
    outcome = reproduce(asked, HERE)
    outcome.require_complete()
    folder = tmp_path / "results/short/tiny"
    names = {"ft", "corrective", "single_correction", "mft"}
    assert {path.stem for path in (folder / "pile_of_law").iterdir()} == {*names, "reference"}
    result = json.loads((folder / "pile_of_law/mft.json").read_text())
    assert result["method"] == "mft"
    assert result["last_step"] == 2
    assert [entry["step"] for entry in result["history"]] == [0, 2]
    assert result["full_configuration"]["learning_rate"] == asked.protocol.learning_rate
    assert result["configuration"]["tau"] == 0.25
    assert result["identity"]["cell"]["dataset"] == "Pile of Law"
    assert {"versions", "device", "commit"} <= result.keys()
    assert str(tmp_path) not in json.dumps(result)
    assert json.loads((folder / "reference.json").read_text())["method"] == "reference"
    report = write_paper_report(asked, outcome.results)
    assert "4 of 4 rows are done" in report
    assert (tmp_path / "results/short/table-3.md").read_text().strip() == report
    assert [path.name for path in (own_cache / "references").iterdir()] == [
        asked.reference_folder("tiny").name
    ]
    assert not list(tmp_path.glob("results/**/*.safetensors"))
    assert not list((own_cache / "references").rglob("checkpoint-*"))


def test_what_is_done_is_not_run_again_unless_asked(reproduction, tmp_path):
    first = reproduce(reproduction(table=3, method="FT"), HERE)
    path = tmp_path / "results/short/tiny/pile_of_law/ft.json"
    before = path.stat().st_mtime_ns
    again = reproduce(reproduction(table=2, method="FT", dataset="Pile of Law"), HERE)
    assert path.stat().st_mtime_ns == before
    assert again.results == first.results
    reproduce(reproduction(table=3, method="FT"), HERE, overwrite=True)
    assert path.stat().st_mtime_ns > before


def test_a_stopped_reproduction_goes_on(reproduction):
    asked = reproduction(table=3)
    ran = []

    def stopped(task):
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(task)
        return in_this_process(task)

    with pytest.raises(KeyboardInterrupt):
        reproduce(asked, one_by_one(stopped))
    ran.clear()
    outcome = reproduce(asked, one_by_one(lambda task: ran.append(task) or in_this_process(task)))
    assert [task.cell.method for task in ran] == [
        "corrective finetuning",
        "single correction",
        "MFT",
    ]
    assert len(outcome.results) == 4


def test_knobs_reach_the_run(reproduction):
    cells = (
        paper_cell("tiny", "Replay", "PubMed", new_data_fraction=0.75),
        paper_cell("tiny", "DoRA", "PubMed", rank=4),
        paper_cell("tiny", "MFT", "PubMed", tau=0.5, data_share=0.5),
        paper_cell("tiny", "EWC", "PubMed"),
        paper_cell("tiny", "FT", "PubMed"),
    )
    protocol = replace(reproduction(table=3).protocol, sequences=4)
    asked = with_cells(reproduction(table=3, protocol=protocol), *cells)
    outcome = reproduce(asked, HERE)
    outcome.require_complete()
    replay, dora, mft, ewc, finetuning = (outcome.results[cell] for cell in cells)
    assert replay["configuration"]["new_data_fraction"] == 0.75
    assert replay["data"]["replay"]["train_tokens"] == 200
    assert dora["configuration"]["rank"] == 4
    assert dora["trainable_parameters"] < finetuning["trainable_parameters"] / 10
    assert mft["configuration"]["tau"] == 0.5
    assert mft["data"]["specialized"]["train_tokens"] == 300
    assert ewc["full_configuration"]["ewc_lambda"] == 3000
    assert finetuning["full_configuration"]["ewc_lambda"] == 0
    # One reference and the same validation text, whatever the budget.
    assert len({json.dumps(result["reference"]) for result in outcome.results.values()}) == 1


def test_targets_share_one_teacher(reproduction, own_cache):
    outcome = reproduce(
        with_cells(
            reproduction(table=3),
            *(paper_cell("tiny", "MFT", "PubMed", tau=tau) for tau in (0.1, 0.9)),
        ),
        HERE,
    )
    outcome.require_complete()
    assert len([*(own_cache / "teachers").iterdir()]) == 1
    gains = {result["specialization"] for result in outcome.results.values()}
    assert len(gains) == 2


def test_what_fails_is_named_and_the_rest_goes_on(reproduction):
    def failing(task):
        if isinstance(task, CellTask) and task.cell.method == "FT":
            return "the disk is full"
        return in_this_process(task)

    outcome = reproduce(reproduction(table=3), one_by_one(failing))
    assert len(outcome.results) == 3
    assert "tiny · Pile of Law · FT" in outcome.failed
    with pytest.raises(InputError, match=r"1 failed, .* FT: the disk is full"):
        outcome.require_complete()


def test_without_its_reference_no_cell_is_run(reproduction):
    seen = []
    outcome = reproduce(reproduction(table=3), one_by_one(lambda task: seen.append(task) or "no"))
    assert len(seen) == 1
    assert outcome.failed == {"reference of tiny": "no"}


def test_a_reference_tuned_by_an_adapter_takes_adapters(reproduction, own_cache):
    protocol = replace(reproduction(table=3).protocol, reference_adapter="lora")
    asked = with_cells(
        reproduction(table=3, protocol=protocol), paper_cell("tiny", "LoRA", "PubMed")
    )
    reproduce(asked, HERE).require_complete()
    (folder,) = (own_cache / "references").iterdir()
    assert (folder / "model.safetensors").exists()
    assert not list(folder.glob("adapter*"))


def test_scores_of_another_reference_are_not_taken(reproduction, own_cache, tmp_path):
    reproduce(reproduction(table=3, method="FT"), HERE)
    scores = tmp_path / "results/short/tiny/pile_of_law/reference.json"
    before = json.loads(scores.read_text())
    other = replace(reproduction(table=3, method="FT"), seed=7)
    reproduce(other, HERE, overwrite=True)
    after = json.loads(scores.read_text())
    assert after["identity"]["seed"] == 7
    assert after["scores"] != before["scores"]


def test_a_prepared_reference_is_taken_as_it_is(reproduction, own_cache):
    reproduce(reproduction(table=3, method="FT"), HERE)
    (prepared,) = (own_cache / "references").iterdir()
    kept = prepared.rename(own_cache.parent / "prepared")
    asked = replace(reproduction(table=3, method="FT", folder="other"), reference=kept)
    outcome = reproduce(asked, HERE)
    (result,) = outcome.results.values()
    assert result["configuration"]["model"] == "prepared"
    assert result["identity"]["reference"] == "prepared"
    assert not list((own_cache / "references").iterdir())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seed": 7}, r"ft\.json is of another seed, reference: name another --output_dir"),
        ({"steps": 3}, r"ft\.json is of another protocol"),
    ],
)
def test_results_of_other_settings_are_refused(reproduction, change, sentence):
    asked = reproduction(table=3, method="FT")
    reproduce(asked, HERE)
    steps = change.pop("steps", asked.protocol.steps)
    other = replace(asked, protocol=replace(asked.protocol, steps=steps), **change)
    with pytest.raises(InputError, match=sentence):
        reproduce(other, HERE)


def test_a_damaged_result_is_named(reproduction):
    asked = reproduction(table=3, method="FT")
    path = asked.result_path(asked.plan.cells[0])
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(InputError, match=r"ft\.json is damaged: remove it"):
        reproduce(asked, HERE)


def test_what_cannot_be_run_is_known_before_anything_runs(reproduction, corpora, tmp_path):
    asked = reproduction(table=3)

    def refused(changed):
        with pytest.raises(InputError) as caught:
            reproduce(changed, lambda tasks: pytest.fail("something ran"))
        return str(caught.value)

    assert "does not divide the protocol's step of 2" in refused(
        replace(asked, machine=Machine(per_device_train_batch_size=3))
    )
    several = reproduction(table=3, model=None)
    assert "--reference is the checkpoint of one model" in refused(
        replace(several, reference=tmp_path)
    )
    (corpora / "legal.jsonl").unlink()
    assert "holds no text for Pile of Law" in refused(asked)
