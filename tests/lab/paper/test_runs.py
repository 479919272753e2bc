"""Cells of the paper from end to end, on a model and texts that take seconds."""

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from safetensors.torch import load_file, save_file

from minifinetuning.errors import InputError
from minifinetuning.lab import cells
from minifinetuning.lab.paper.cells import paper_cell
from minifinetuning.lab.paper.plan import Plan
from minifinetuning.lab.paper.runs import CellTask, ReferenceTask, kept_folder, reproduce
from minifinetuning.lab.paper.tables import write_paper_report
from minifinetuning.lab.processes import failure, in_this_process

pytestmark = pytest.mark.filterwarnings("default")

HERE = in_this_process


def one_by_one(run):
    """An executor of tasks that are run by `run`, which gives the reason of a failure or None."""
    return lambda tasks, begin: ((name, run(task)) for name, task in tasks.items())


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
        return failure(task)

    with pytest.raises(KeyboardInterrupt):
        reproduce(asked, one_by_one(stopped))
    ran.clear()
    outcome = reproduce(asked, one_by_one(lambda task: ran.append(task) or failure(task)))
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
        return failure(task)

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


def test_scores_of_another_reference_are_not_taken(reproduction, tmp_path):
    reproduce(reproduction(table=3, method="FT"), HERE)
    scores = tmp_path / "results/short/tiny/pile_of_law"
    before = json.loads((scores / "reference.json").read_text())
    other = replace(reproduction(table=3, method="FT"), seed=7)
    reproduce(other, HERE, overwrite=True)
    (path,) = scores.glob("reference.*.json")
    assert json.loads(path.read_text())["scores"] != before["scores"]
    assert json.loads((scores / "reference.json").read_text()) == before


def test_a_prepared_reference_is_taken_as_it_is(reproduction, own_cache):
    reproduce(reproduction(table=3, method="FT"), HERE)
    (prepared,) = (own_cache / "references").iterdir()
    kept = prepared.rename(own_cache.parent / "prepared")
    asked = replace(reproduction(table=3, method="FT", folder="other"), reference=kept)
    outcome = reproduce(asked, HERE)
    (result,) = outcome.results.values()
    assert result["configuration"]["model"] == "prepared"
    assert not list((own_cache / "references").iterdir())


@pytest.mark.parametrize(
    ("change", "words"), [({"seed": 7}, "model or seed"), ({"steps": 3}, "model or protocol")]
)
def test_results_of_other_settings_are_neither_taken_nor_lost(reproduction, caplog, change, words):
    asked = reproduction(table=3, method="FT")
    first = reproduce(asked, HERE)
    steps = change.pop("steps", asked.protocol.steps)
    other = replace(asked, protocol=replace(asked.protocol, steps=steps), **change)
    second = reproduce(other, HERE)
    assert f"results of another {words} are left where they are: " in caplog.text
    assert second.results != first.results
    caplog.clear()
    for reproduction_, outcome in ((asked, first), (other, second)):
        assert reproduce(replace(reproduction_), NOTHING_RUNS).results == outcome.results


def nothing(tasks, begin):
    if tasks:
        pytest.fail(f"{[*tasks]} ran")
    yield from ()


NOTHING_RUNS = nothing


def edited(path):
    rows = path.read_text().splitlines()
    path.write_text("\n".join([rows[0].replace("a", "e"), *rows[1:]]))


@pytest.mark.parametrize(
    ("name", "words"), [("legal.jsonl", "text"), ("general.jsonl", "model or text")]
)
def test_results_of_another_text_are_neither_taken_nor_lost(
    reproduction, corpora, own_cache, caplog, name, words
):
    first = reproduce(reproduction(table=3, method="FT"), HERE)
    size = (corpora / name).stat().st_size
    edited(corpora / name)
    assert (corpora / name).stat().st_size == size
    second = reproduce(reproduction(table=3, method="FT"), HERE)
    assert f"results of another {words} are left where they are: " in caplog.text
    assert len(list((own_cache / "references").iterdir())) == (1 if name == "legal.jsonl" else 2)
    ((cell, result),) = second.results.items()
    assert result["tuned"] != first.results[cell]["tuned"]


def test_where_texts_lie_and_what_they_are_called_does_not_matter(reproduction, corpora):
    first = reproduce(reproduction(table=3, method="FT"), HERE)
    (corpora / "legal.jsonl").rename(corpora / "pile_of_law.jsonl")
    (corpora / "openwebtext").mkdir()
    (corpora / "general.jsonl").rename(corpora / "openwebtext/some.jsonl")
    moved = replace(
        reproduction(table=3, method="FT"), corpora=corpora.rename(corpora.parent / "elsewhere")
    )
    assert reproduce(moved, NOTHING_RUNS).results == first.results


def test_another_reference_of_the_same_name_is_another_model(reproduction, own_cache, tmp_path):
    reproduce(reproduction(table=3, method="FT"), HERE)
    (prepared,) = (own_cache / "references").iterdir()
    given = {}
    for name, factor in (("a", 1.0), ("b", 1.5), ("c", 1.0)):
        folder = tmp_path / name / "ref"
        shutil.copytree(prepared, folder)
        weights = load_file(folder / "model.safetensors")
        weights["model.norm.weight"] *= factor
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        (folder / "README.md").write_text(name)
        given[name] = replace(reproduction(table=3, method="FT", folder="other"), reference=folder)
    first = reproduce(given["a"], HERE)
    second = reproduce(given["b"], HERE)
    ((cell, result),) = second.results.items()
    assert result["reference"] != first.results[cell]["reference"]
    assert reproduce(given["c"], NOTHING_RUNS).results == first.results


def test_two_commands_prepare_one_reference(reproduction, monkeypatch):
    asked = reproduction(table=3)
    folder = asked.reference_folder("tiny")
    prepared = []

    def prepare(task):
        path = task.reproduction.reference_folder(task.model)
        prepared.append(path)
        time.sleep(0.2)
        path.mkdir()
        (path / "metrics.json").write_text("{}")

    monkeypatch.setattr(ReferenceTask, "_prepare", prepare)
    monkeypatch.setattr(cells, "_SECONDS_BETWEEN_LOOKS", 0.01)
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(ReferenceTask("tiny", asked)) for _ in range(2)]:
            done.result()
    assert prepared == [folder]


def test_two_commands_on_one_folder_are_one_too_many(reproduction):
    asked = reproduction(table=3)

    def other():
        with kept_folder(asked):
            pytest.fail("both hold it")

    with kept_folder(asked), ThreadPoolExecutor(1) as pool:
        refused = pool.submit(other).exception()
    assert isinstance(refused, InputError)
    assert f"another run is writing to {asked.report_folder}" in str(refused)


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
            reproduce(changed, lambda tasks, begin: pytest.fail("something ran"))
        return str(caught.value)

    assert "does not divide the protocol's step of 2" in refused(
        replace(asked, per_device_train_batch_size=3)
    )
    several = reproduction(table=3, model=None)
    assert "--reference is the checkpoint of one model" in refused(
        replace(several, reference=tmp_path)
    )
    (corpora / "legal.jsonl").unlink()
    assert "holds no text for Pile of Law" in refused(asked)
