"""What a run may write to, what it leaves alone, and what is there when it fails."""

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from minifinetuning.errors import InputError
from minifinetuning.training.checkpoints import write_manifest
from minifinetuning.training.folder import (
    begin_run,
    new_folder,
    output_folder,
    published,
    report_folder,
    run_folder,
)

METRICS = {"method": "mft", "reference": {}, "tuned": {}, "specialization": 1.0}
CARD = "---\nlibrary_name: peft\ntags:\n- minifinetuning\n---\n\n# A card\n"


@pytest.fixture
def training(training_arguments, tmp_path):
    def make(**changes):
        return training_arguments(output_dir=str(tmp_path / "out"), **changes)

    return make


def publish(folder, **files):
    """What a run leaves; the weights are as long in every run."""
    with published(folder) as staged:
        for name, content in {"model.safetensors": "weights", "README.md": CARD, **files}.items():
            (staged / name.replace("_json", ".json")).write_text(content)
        (staged / "metrics.json").write_text(json.dumps(METRICS))


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def refused(training, said):
    folder = Path(training.output_dir)
    before = contents(folder)
    with pytest.raises(InputError, match=said), run_folder(training):
        pass
    assert contents(folder) == before


def test_a_run_replaces_what_a_run_wrote_and_nothing_else(training, tmp_path):
    out = tmp_path / "out"
    with run_folder(training()):
        begin_run(out, resume=False)
        publish(out, adapter_config_json="{}")
    (out / "notes.txt").write_text("mine")
    (out / "checkpoint-4").mkdir()
    refused(training(), "is not empty: pass --overwrite_output_dir")
    with run_folder(training(overwrite_output_dir=True)):
        assert (out / "adapter_config.json").exists()
        begin_run(out, resume=False)
        assert not (out / "checkpoint-4").exists()
        publish(out, config_json="new")
    found = contents(out)
    found.pop(".minifinetuning.json")
    assert found == {
        "model.safetensors": "weights",
        "README.md": CARD,
        "config.json": "new",
        "metrics.json": json.dumps(METRICS),
        "notes.txt": "mine",
    }


@pytest.mark.parametrize(
    "name", ["README.md", "config.json", "tokenizer.json", "model.safetensors"]
)
@pytest.mark.parametrize(
    "options", [{"overwrite_output_dir": True}, {"resume_from_checkpoint": "True"}]
)
def test_files_of_the_user_are_neither_removed_nor_replaced(training, tmp_path, name, options):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    (out / "notes.txt").write_text("mine too")
    refused(training(**options), f"holds {name}, which no run wrote")


def test_what_was_changed_since_is_the_users(training, tmp_path):
    publish(tmp_path / "out")
    (tmp_path / "out" / "model.safetensors").write_text("WEIGHTS")
    refused(training(overwrite_output_dir=True), "holds model.safetensors, .* changed since")


def test_a_copy_of_a_result_is_still_a_runs(training, tmp_path):
    """Copying changes the times of files, not their content."""
    publish(tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        path.write_text(path.read_text())
    with run_folder(training(overwrite_output_dir=True)):
        pass


def test_a_result_of_an_older_version_can_be_replaced(training, tmp_path):
    out = tmp_path / "out"
    publish(out, adapter_config_json="{}")
    (out / ".minifinetuning.json").unlink()
    (out / "checkpoint-8").mkdir()
    with run_folder(training(overwrite_output_dir=True)):
        begin_run(out, resume=False)
        publish(out)
    assert sorted(contents(out)) == sorted(
        [".minifinetuning.json", "README.md", "metrics.json", "model.safetensors"]
    )
    assert not (out / "checkpoint-8").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("README.md", "# Mine\n\n- minifinetuning\n"),
        ("metrics.json", json.dumps({"accuracy": 1})),
        ("metrics.json", json.dumps(METRICS | {"method": "tuned"})),
        ("metrics.json", "[]"),
    ],
)
def test_not_every_metrics_and_readme_are_ours(training, tmp_path, name, content):
    out = tmp_path / "out"
    publish(out)
    (out / ".minifinetuning.json").unlink()
    (out / name).write_text(content)
    refused(training(overwrite_output_dir=True), "which no run wrote")


@pytest.mark.parametrize("ours", [True, False])
def test_checkpoints_of_other_programs_stay(training, tmp_path, ours):
    checkpoint = tmp_path / "out" / "checkpoint-4"
    checkpoint.mkdir(parents=True)
    log = [{"eval_selection_perplexity" if ours else "eval_loss": 2.0}]
    (checkpoint / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    if not ours:
        refused(training(overwrite_output_dir=True), "holds checkpoint-4, which no run wrote")
    else:
        with run_folder(training(overwrite_output_dir=True)):
            begin_run(tmp_path / "out", resume=False)
    assert checkpoint.exists() != ours


def test_a_run_that_was_killed_can_be_begun_again(training, tmp_path):
    """It had marked its folder, and had no evaluation in its checkpoints yet."""
    out = tmp_path / "out"
    begin_run(out, resume=False)
    (out / "checkpoint-0").mkdir()
    (out / ".result-incomplete").mkdir()
    refused(training(), "is not empty")
    begin_run(out, resume=True)
    assert (out / "checkpoint-0").exists()
    with run_folder(training(overwrite_output_dir=True)):
        begin_run(out, resume=False)
        publish(out)
    assert not list(out.glob("checkpoint-*"))
    assert not list(out.glob(".result-*"))


def test_no_half_of_a_checkpoint_stays(training, tmp_path):
    out = tmp_path / "out"
    for older in (out / "checkpoint-2", out / "checkpoint-8"):
        older.mkdir(parents=True)
        os.utime(older, (0, 0))
    publish(out)

    def run():
        with run_folder(training(overwrite_output_dir=True)):
            (out / "checkpoint-8").rmdir()
            (out / "checkpoint-6").mkdir()
            write_manifest(out / "checkpoint-6", 6, {}, resumable=True)
            (out / "checkpoint-8").mkdir()
            (out / "checkpoint-8" / "model.safetensors").write_text("half of ")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    # What an older version wrote has no manifest either.
    assert {path.name for path in out.glob("check*")} == {"checkpoint-2", "checkpoint-6"}


def test_what_came_to_be_in_the_way_meanwhile_is_kept(tmp_path, caplog):
    publish(tmp_path)
    (tmp_path / "notes.model").write_text("mine")
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "README.md.1").write_text("mine too")
    publish(tmp_path, **{"notes.model": "theirs"})
    found = contents(tmp_path)
    assert found["notes.model.1"] == found["README.md.2"] == "mine"
    assert (found["README.md"], found["README.md.1"]) == (CARD, "mine too")
    assert "kept as README.md.2" in caplog.text


def test_a_folder_is_refused_while_another_run_writes_to_it(training, tmp_path):
    def other(make):
        with run_folder(make):
            pass

    with run_folder(training()), ThreadPoolExecutor() as threads:
        for each in (training(), training(overwrite_output_dir=True)):
            run = threads.submit(other, each)
            with pytest.raises(InputError, match=f"another run is writing to {tmp_path / 'out'}"):
                run.result()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 5120 vs 5012"),
    ],
)
def test_a_full_disk_is_one_sentence_and_leaves_the_earlier_result(training, tmp_path, error):
    out = tmp_path / "out"
    publish(out)
    before = contents(out)

    def run():
        with run_folder(training(overwrite_output_dir=True)), published(out) as staged:
            (staged / "model.safetensors").write_text("half of ")
            raise error

    with pytest.raises(InputError, match=f"^no space left while writing to {out}: "):
        run()
    assert contents(out) == before
    assert {path.name for path in out.iterdir()} == set(before)


def test_a_file_that_cannot_be_written_is_named_and_one_that_is_read_keeps_its_error(tmp_path):
    def failing(filename):
        with output_folder(tmp_path / "out"):
            raise OSError(errno.EACCES, "Permission denied", filename)

    with pytest.raises(InputError, match=r"out cannot be written \(Permission denied\)"):
        failing(str(tmp_path / "out" / "a"))
    with pytest.raises(PermissionError):
        failing(str(tmp_path / "a"))
    damaged = "[enforce fail at inline_container.cc:190] PytorchStreamReader failed reading"
    with pytest.raises(RuntimeError, match="Reader"), output_folder(tmp_path / "out"):
        raise RuntimeError(damaged)


def test_a_read_only_disk_is_refused_at_once(tmp_path, monkeypatch):
    def refusing(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system", str(tmp_path / "out" / "new"))

    monkeypatch.setattr("pathlib.Path.mkdir", refusing)
    said = r"cannot be written \(Read-only file system\)"
    with pytest.raises(InputError, match=said), output_folder(tmp_path / "out" / "new"):
        raise AssertionError("never reached")


def test_folders_made_for_nothing_are_removed(training, tmp_path):
    inner = tmp_path / "a" / "b"
    for folder in (output_folder, new_folder):
        with folder(inner):
            assert inner.is_dir()
        assert not (tmp_path / "a").exists()
    with run_folder(training()):
        begin_run(tmp_path / "out", resume=False)
    assert not (tmp_path / "out").exists()
    (tmp_path / "mine").mkdir()
    with output_folder(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").is_dir()


def test_reports_replace_reports_and_nothing_else(tmp_path):
    names, older = ("results.md", "cells", "frontier.*"), ("cells/*.json", "cell")
    out = tmp_path / "out"
    for round_ in ("first", "second"):
        with report_folder(out, names, older=older):
            (out / "results.md").write_text(round_)
    assert (out / "results.md").read_text() == "second"
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "frontier.png").write_text("mine")
    said = r"holds frontier\.png, which no run wrote"
    with pytest.raises(InputError, match=said), report_folder(mine, names, older=older):
        pass
    (mine / "cells").mkdir()
    (mine / "cells" / "ft.json").write_text('{"cell": {}}')
    with report_folder(mine, names, older=older):
        pass
    with report_folder(mine, ("results.md", "page.html"), older=older):
        (mine / "frontier.png").write_text("replaced")
    with report_folder(mine, names, older=older):
        pass


def test_a_run_beside_reports_leaves_them(training, tmp_path):
    out = tmp_path / "out"
    with report_folder(out, ("results.md",), older=("*.json", "cell")):
        (out / "results.md").write_text("a table")
    with run_folder(training(overwrite_output_dir=True)):
        begin_run(out, resume=False)
        publish(out)
    assert (out / "results.md").read_text() == "a table"
    with report_folder(out, ("results.md",), older=("*.json", "cell")):
        pass
