"""A comparison from its cells to its report, stopped and gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import minifinetuning
from minifinetuning.errors import InputError
from minifinetuning.experiments.compare import compare
from minifinetuning.experiments.compare.runner import measured
from minifinetuning.experiments.processes import in_this_process

pytestmark = pytest.mark.filterwarnings("default")

TIMED = {"tokens_per_second", "peak_memory_bytes", "teacher", "full_configuration"}


def compared(comparison, **options):
    return compare(comparison, executor=in_this_process, **options)


def rows_of(comparison, **options):
    rows, failed = measured(comparison, executor=in_this_process, **options)
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
    assert not list((folder / "runs").iterdir())
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


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"max_steps": 5}, "is of another comparison .training: max_steps 4, not 5."),
        ({"seed": 7, "seeds": 36}, "is of another comparison .first_seed: 42, not 7"),
    ],
)
def test_a_folder_of_another_comparison_is_refused_unless_replaced(comparison, changes, sentence):
    rows_of(comparison("ft"))
    with pytest.raises(InputError, match=sentence):
        rows_of(comparison("ft", **changes))
    replaced = rows_of(comparison("ft", max_steps=5), overwrite=True)
    assert replaced["ft"]["last_step"] == 5


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
    comparison, material, tmp_path, own_cache
):
    expected = rows_of(comparison("ft,mft", folder="whole"))
    source = str(Path(minifinetuning.__file__).parents[1])
    command = [
        sys.executable,
        "-c",
        "from minifinetuning.cli import main; raise SystemExit(main())",
    ]
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
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    cells = tmp_path / "killed/cells"
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as running:
        deadline = time.monotonic() + 120
        while not (cells.exists() and list(cells.glob("*.json"))):
            assert running.poll() is None, running.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        running.send_signal(signal.SIGKILL)
    assert len(list(cells.glob("*.json"))) == 1
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 of 2 cells are done already" in done.stderr
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
