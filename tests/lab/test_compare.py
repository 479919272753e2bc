"""A comparison from its cells to its report, stopped and gone on with."""

import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from safetensors.torch import load_file, save_file

from minifinetuning.errors import InputError
from minifinetuning.lab import compare as comparisons
from minifinetuning.lab.compare import compare, comparison_rows
from minifinetuning.lab.processes import in_this_process
from minifinetuning.training.record import commit

pytestmark = pytest.mark.filterwarnings("default")

TIMED = {"tokens_per_second", "peak_memory_bytes", "teacher", "full_configuration"}


def compared(comparison, **options):
    return compare(comparison, executor=in_this_process, **options)


@pytest.fixture
def no_pictures(monkeypatch):
    """They take most of the time of a comparison as small as these."""
    monkeypatch.setattr(comparisons, "_write_report", lambda *arguments: None)


def rows_of(comparison, **options):
    rows, failed = comparison_rows(comparison, executor=in_this_process, **options)
    assert not failed
    return rows


def figures(row):
    return {name: value for name, value in row.items() if name not in TIMED}


def test_every_kind_of_method_is_measured_and_reported(comparison, tmp_path):
    methods = (
        "ft,mft,lora+mft@1e-2,replay+mft,ewc,self_replay,ft+blend,lora+blend@1e-2,"
        "dft,talr,eaft,replay+ia3+kl+ewc"
    )
    made = comparison(methods)
    rows = compared(made)
    assert list(rows) == [method.name for method in made.methods]
    assert len({json.dumps(row["reference"]) for row in rows.values()}) == 1
    for name, row in rows.items():
        assert row["specialization"] != 0, name
        assert row["trainable_parameters"] > 0
        assert row["peak_memory_bytes"] > 2**20
        assert row["history"][0]["specialization"] == 0
    assert rows["lora+mft"]["learning_rate"] == 1e-2
    assert rows["lora+mft"]["trainable_parameters"] < rows["ft"]["trainable_parameters"]
    assert [entry["step"] for entry in rows["ft"]["history"]] == [0, 2, 4]
    folder = tmp_path / "out"
    for name in ("frontier.png", "frontier.svg", "dynamics.png", "dynamics.svg", "comparison.html"):
        assert (folder / name).stat().st_size > 1000
    assert "| replay+mft " in (folder / "results.md").read_text()
    assert "| compared with ft " in (folder / "results.md").read_text()
    assert "difference" not in rows["ft"]
    difference = rows["mft"]["difference"]
    assert difference["from"] == "ft"
    for quantity in ("specialization", "degeneralization", "ratio"):
        expected = rows["mft"][quantity] - rows["ft"][quantity]
        assert difference[quantity] == pytest.approx(expected)
    assert json.loads((folder / "comparison.json").read_text())["rows"].keys() == rows.keys()
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"cells"}
    assert not list(folder.rglob("*.safetensors"))


def test_a_blended_method_is_measured_along_the_line(comparison):
    rows = rows_of(comparison("ft,ft+blend"))
    points = rows["ft+blend"]["history"]
    assert [point["coefficient"] for point in points] == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    last = rows["ft"]["history"][-1]
    assert points[-1]["specialization"] == pytest.approx(last["specialization"], abs=1e-3)
    assert points[-1]["degeneralization"] == pytest.approx(last["degeneralization"], abs=1e-3)
    between = [point["specialization"] for point in points]
    assert sorted(between) == between


def test_a_blended_method_and_the_plain_one_are_one_training(comparison, caplog):
    caplog.set_level("INFO")
    alone = rows_of(comparison("lora@1e-2", folder="alone"))
    rows = rows_of(comparison("ft,lora@1e-2,lora+blend@1e-2", learning_rates="1e-3"))
    assert list(rows) == ["ft", "lora", "lora+blend"]
    for name in ("specialization", "degeneralization", "history", "trainable_parameters"):
        assert rows["lora"][name] == alone["lora"][name]
    assert "lora@0.01-seed42, trained on the way" in caplog.text
    assert "ft@0.001-seed42, trained" not in caplog.text


def test_the_weight_of_ewc_reaches_no_other_method(comparison):
    plain = rows_of(comparison("ft", folder="plain"))["ft"]
    rows = rows_of(comparison("ft,ewc", ewc_lambda=1e4))
    assert rows["ft"]["history"] == plain["history"]
    assert rows["ewc"]["history"] != plain["history"]


def test_a_blended_method_leaves_a_plain_result_as_it_is(comparison, tmp_path):
    rows_of(comparison("ft"))
    cell = next((tmp_path / "out/cells").iterdir())
    before = cell.read_bytes()
    rows_of(comparison("ft,ft+blend"))
    assert cell.read_bytes() == before


def test_cells_that_are_done_are_not_run_again(comparison, tmp_path):
    first = rows_of(comparison("ft,mft"))
    paths = list((tmp_path / "out/cells").iterdir())
    changed = {path: path.stat().st_mtime_ns for path in paths}
    second = rows_of(comparison("ft,mft,dft", disable_tqdm=True, logging_steps=1))
    assert {path: path.stat().st_mtime_ns for path in paths} == changed
    assert {name: second[name] for name in first} == first
    assert len(list((tmp_path / "out/cells").iterdir())) == 3


def test_teachers_are_computed_once_for_all_cells(comparison, own_cache):
    rows_of(comparison("mft,kl"))
    parts = {path: path.stat().st_mtime_ns for path in own_cache.rglob("part-*.safetensors")}
    assert parts
    rows_of(comparison("mft,lora+mft,distillation", folder="other", learning_rate=2e-3))
    again = {path: path.stat().st_mtime_ns for path in own_cache.rglob("part-*.safetensors")}
    assert again == parts


def test_seeds_are_pooled_and_the_text_stays_the_same(comparison):
    rows = rows_of(comparison("ft", seeds=2, learning_rates="1e-3,1e-2"))
    assert list(rows) == ["ft @ 0.001", "ft @ 0.01"]
    row = rows["ft @ 0.01"]
    assert row["seeds"] == [42, 43]
    singles = [
        rows_of(comparison("ft@1e-2", folder=str(seed), seed=seed, data_seed=seed))["ft"]
        for seed in (42,)
    ]
    assert singles[0]["reference"] == row["reference"]
    assert row["specialization"] != singles[0]["specialization"]


def cells_in(folder):
    return {path.name: json.loads(path.read_text()) for path in (folder / "cells").iterdir()}


def left(caplog):
    return [line for line in caplog.messages if "are left where they are" in line]


def edited(material):
    rows = material["own.jsonl"].read_text().splitlines()
    material["own.jsonl"].write_text("\n".join([rows[0].replace("a", "e"), *rows[1:]]))


def of_another_model(material):
    (path,) = material["model"].glob("*.safetensors")
    weights = load_file(path)
    weights["model.norm.weight"] *= 1.5
    save_file(weights, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("changed", "changes", "word"),
    [
        (edited, {}, "text"),
        (of_another_model, {}, "model"),
        (lambda material: None, {"max_steps": 5}, "training"),
    ],
)
def test_results_of_something_else_are_neither_taken_nor_lost(
    comparison, material, tmp_path, caplog, changed, changes, word
):
    first = rows_of(comparison("ft"))["ft"]
    before = cells_in(tmp_path / "out")
    assert not left(caplog)
    changed(material)
    second = rows_of(comparison("ft", **changes))["ft"]
    (said,) = left(caplog)
    assert f"results of another {word} are left" in said
    assert f"{tmp_path / 'out/cells/ft@0.001-seed42.json'}" in said
    after = cells_in(tmp_path / "out")
    assert len(after) == 2
    assert before.items() <= after.items()
    assert second["tuned"] != first["tuned"]
    caplog.clear()
    assert rows_of(comparison("ft", **changes))["ft"] == second
    assert not left(caplog)
    replaced = rows_of(comparison("ft", **changes), overwrite=True)["ft"]
    assert list(cells_in(tmp_path / "out")) == ["ft@0.001-seed42.json"]
    assert figures(replaced) == figures(second)


def test_results_of_an_older_version_are_neither_taken_nor_lost(
    comparison, tmp_path, caplog, no_pictures
):
    made = comparison("ft")
    cells = tmp_path / "out/cells"
    cells.mkdir(parents=True)
    older = {"cell": {"method": "ft"}, "method": "ft", "scores": {}}
    (cells / "ft@0.001-seed42.json").write_text(json.dumps(older))
    (tmp_path / "out/reference.json").write_text('{"settings": {}, "scores": {}}')
    compared(made)
    (said,) = left(caplog)
    assert "results of another version are left" in said
    assert json.loads((cells / "ft@0.001-seed42.json").read_text()) == older
    assert len(list(cells.iterdir())) == 2


def test_where_text_and_model_lie_and_what_they_are_called_does_not_matter(
    comparison, material, tmp_path
):
    first = rows_of(comparison("ft"))
    for name, path in [*material.items()]:
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        material[name] = path.rename(tmp_path / "elsewhere" / f"other-{name}")
    assert rows_of(comparison("ft")) == first
    assert len(list((tmp_path / "out/cells").iterdir())) == 1


def test_a_text_that_changes_meanwhile_is_noticed(comparison, material, tmp_path):
    made = comparison("ft")

    def changing(tasks, begin):
        edited(material)
        yield from in_this_process(tasks, begin)

    _, failed = comparison_rows(made, executor=changing)
    assert "the texts were changed while this ran" in failed["ft@0.001-seed42"]
    assert not (tmp_path / "out/cells").exists()


def test_two_commands_on_one_folder_are_one_too_many(comparison, tmp_path, no_pictures):
    folder = tmp_path / "out"
    refusals = []

    def meanwhile(tasks, begin):
        if tasks:
            with pytest.raises(InputError) as caught:
                other_thread(lambda: compared(comparison("ft,mft")))
            refusals.append(str(caught.value))
        yield from in_this_process(tasks, begin)

    compare(comparison("ft"), executor=meanwhile)
    assert refusals == [
        f"another run is writing to {folder}: wait until it has ended, or name another folder"
    ]
    assert len(list((folder / "cells").iterdir())) == 1


def other_thread(work):
    """As another process would: a lock is held by a thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def test_what_is_not_ours_is_neither_removed_nor_written_over(comparison, tmp_path, no_pictures):
    folder = tmp_path / "out"
    for name in ("runs", "cells"):
        (folder / name).mkdir(parents=True)
        (folder / name / "letter.json").write_text('"mine"')
    with pytest.raises(InputError, match=r"holds cells, which no run wrote"):
        compared(comparison("ft"), overwrite=True)
    (folder / "cells").rename(folder / "my-cells")
    compared(comparison("ft"))
    (folder / "cells/letter.json").write_text('"mine"')
    compared(comparison("ft"), overwrite=True)
    for name in ("runs", "cells", "my-cells"):
        assert (folder / name / "letter.json").read_text() == '"mine"'


def test_what_a_comparison_reads_is_not_written_to(comparison, material):
    before = sorted(material["model"].rglob("*"))
    made = comparison("ft")
    for folder in (material["model"], material["model"].parent):
        settings = replace(made.settings, folder=folder)
        with pytest.raises(InputError, match=r"is --model|holds --"):
            compared(replace(made, settings=settings), overwrite=True)
    assert sorted(material["model"].rglob("*")) == before


def test_a_result_says_of_which_commit_it_is(comparison, tmp_path):
    row = rows_of(comparison("ft"))["ft"]
    (cell,) = cells_in(tmp_path / "out").values()
    assert cell["commit"] == row["commit"] == commit()


def test_a_damaged_result_is_named(comparison, tmp_path):
    rows_of(comparison("ft"))
    (path,) = (tmp_path / "out/cells").iterdir()
    path.write_text("{")
    with pytest.raises(InputError, match="is damaged: remove it"):
        rows_of(comparison("ft"))


def test_a_cell_that_fails_is_named_and_the_others_go_on(comparison, tmp_path):
    made = comparison("ft,mft@1e9,dft")
    with pytest.raises(InputError, match=r"1 of 3 cells failed .*mft@1e\+09-seed42: the loss is"):
        compared(made)
    assert "| dft " in (tmp_path / "out/results.md").read_text()


@pytest.mark.parametrize(
    ("methods", "changes", "sentence"),
    [
        ("replay", {"data": {"general": None}}, "--methods replay trains with the help of general"),
        ("ewc", {"data": {"general": ["self"]}}, "--methods ewc trains with the help of general"),
        ("mft", {"objective": "ft"}, "--objective is each method's own here"),
        ("mft", {"seeds": 0}, "--seeds must be at least 1"),
        ("mft", {"learning_rates": "1e-4,often"}, "--learning_rates: 'often' is no learning rate"),
        ("replay", {"per_device_train_batch_size": 1}, "--new_data_fraction 0.5 of 1 sequences"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(comparison, methods, changes, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        compared(comparison(methods, **changes))
    assert not (tmp_path / "out").exists()


def test_without_general_text_the_divergence_is_reported(comparison, tmp_path):
    rows = compared(comparison("ft,mft", data={"general": None}))
    assert rows["mft"]["degeneralization"] is None
    assert rows["mft"]["forward_kl"] > 0
    assert not (tmp_path / "out/frontier.png").exists()
    assert "KL" in (tmp_path / "out/results.md").read_text()


def test_what_was_measured_on_the_models_own_text_says_so(comparison, tmp_path):
    compared(comparison("ft,self_replay+mft", data={"general": ["self"]}))
    assert "text that the starting model wrote itself" in (tmp_path / "out/results.md").read_text()


@pytest.mark.slow
def test_killed_in_the_middle_it_gives_the_table_of_one_never_killed(
    comparison, material, tmp_path, script
):
    expected = rows_of(comparison("ft,mft", folder="whole"))
    command = ["from minifinetuning.cli import main; raise SystemExit(main())"]
    options = {
        **{"model": material["model"], "data": material["own.jsonl"]},
        **{"general": material["general.jsonl"], "sequence_length": 64, "max_steps": 4},
        **{"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "eval_steps": 2},
        **{"learning_rate": 1e-3, "bf16": False, "use_cpu": True, "disable_tqdm": True},
        # As every run on a GPU has.
        **{"methods": "ft,mft", "dataloader_num_workers": 1, "output_dir": tmp_path / "killed"},
    }
    command.append("compare")
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    cells = tmp_path / "killed/cells"
    running = script(*command)
    deadline = time.monotonic() + 120
    while not (cells.exists() and list(cells.glob("*.json"))):
        assert running.is_running(), running.output
        assert time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    assert running.end() == -signal.SIGKILL
    assert len(list(cells.glob("*.json"))) == 1
    done = script(*command)
    assert done.end() == 0, done.output
    assert "1 of 2 cells are done already" in done.output
    killed = json.loads((tmp_path / "killed/comparison.json").read_text())["rows"]
    assert expected.keys() == killed.keys()
    for name, row in killed.items():
        assert row["configuration"].pop("dataloader_num_workers") == 1
        row["configuration"].pop("output_dir", None)
        expected[name]["configuration"].pop("output_dir", None)
        assert figures(row) == figures(expected[name])


def test_a_run_named_twice_is_refused_before_anything_is_read(comparison):
    with pytest.raises(InputError, match=r"name ft at 0\.001 twice"):
        comparison("ft,ft@1e-3")
    with pytest.raises(InputError, match="name ft at 1e-05 twice"):
        comparison("ft,ft@1e-5,ft+blend", learning_rate=1e-5)


def test_the_fisher_information_is_of_replayed_text_where_there_is_no_general_one(
    comparison, material
):
    text = {"general": None, "replay": [str(material["general.jsonl"])]}
    rows = rows_of(comparison("ft,ewc", data=text, ewc_lambda=1e4))
    assert rows["ewc"]["history"] != rows["ft"]["history"]
    assert rows["ewc"]["data"]["fisher"]["sources"] == text["replay"]
