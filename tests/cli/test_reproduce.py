"""`mft reproduce` as a person types it."""

import json
from pathlib import Path
from typing import Any

import pytest

from minifinetuning.cli import main
from minifinetuning.lab.paper import protocol
from minifinetuning.lab.paper.cells import published_values

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def corpora(tmp_path: Path, sentences: Any) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for seed, name in enumerate(("pile_of_law", "openwebtext")):
        rows = [json.dumps({"text": text}) for text in sentences(60, seed)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    return folder


def test_the_list_has_every_table_and_figure(capsys: Any) -> None:
    assert main(["reproduce", "--list"]) == 0
    printed = capsys.readouterr().out
    for name in (*(f"table {number}" for number in range(2, 11)), "figure 4", "figure 7"):
        assert f"| {name} " in printed
    assert "441 published values, 395 cells" in printed


def test_a_dry_run_names_every_cell_of_every_published_value(capsys: Any, tmp_path: Path) -> None:
    out = tmp_path / "results"
    assert main(["reproduce", "--dry_run", "--output_dir", str(out)]) == 0
    lines = {line.split(" | ")[0].strip("| "): line for line in capsys.readouterr().out.split("\n")}
    for row in published_values():
        assert "to run" in lines[str(row.cell)]
    assert not out.exists()


def test_a_dry_run_says_what_it_would_take(capsys: Any, tmp_path: Path) -> None:
    arguments = ["reproduce", "--dry_run", "--table", "5", "--model", "llama 3.2 1b"]
    assert main([*arguments, "--output_dir", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "To run: 21 cells and 1 references under the protocol 'paper'" in printed
    assert "hours on one H100" in printed
    assert "GB of checkpoints and teacher caches" in printed
    assert "Agree to the terms on the hub before: Llama 3.2 1B" in printed
    assert "- learning rate 3e-5" in printed


def test_a_model_of_ones_own_is_called_by_the_last_part_of_its_place(
    capsys: Any, tmp_path: Path
) -> None:
    (tmp_path / "handbook-model").mkdir()
    arguments = ["reproduce", "--dry_run", "--table", "3", "--output_dir", "results"]
    assert main([*arguments, "--model", str(tmp_path / "handbook-model")]) == 0
    printed = capsys.readouterr().out
    assert "handbook-model · Pile of Law · MFT" in printed
    assert "results/paper/handbook-model/pile_of_law/mft.json" in printed
    assert str(tmp_path) not in printed


@pytest.mark.slow
@pytest.mark.usefixtures("loaded_process")
def test_a_cell_from_the_command_line(
    capsys: Any, tmp_path: Path, corpora: Path, monkeypatch: Any
) -> None:
    from dataclasses import replace

    short = replace(
        protocol.PROTOCOLS["tiny"],
        train_tokens=600,
        validation_tokens=200,
        reference_tokens=600,
        sequence_length=32,
        steps=2,
        evaluations=1,
    )
    monkeypatch.setitem(protocol.PROTOCOLS, "tiny", short)
    arguments = ["reproduce", "--table", "3", "--method", "FT", "--model", "tiny"]
    arguments += ["--corpora", str(corpora), "--output_dir", str(tmp_path / "results")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "Table 3: 1 of 1 rows are done. The paper has no tiny here" in printed
    assert "| tiny " in printed
    result = json.loads((tmp_path / "results/tiny/tiny/pile_of_law/ft.json").read_text())
    assert result["last_step"] == 2
    assert main([*arguments, "--dry_run"]) == 0
    assert "| done " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--table", "1"], "--table 1 is not there: choose one of 2, 3, 4"),
        (["--figure", "3"], "--figure 3 is not there"),
        (["--model", "GPT 9"], "--model GPT 9 is not known"),
        (["--dataset", "Poems"], "--dataset Poems is not known: choose one of PubMed"),
        (["--table", "3", "--method", "Magic"], "--method Magic is not known: choose one of DoRA"),
        (["--protocol", "huge"], "--protocol huge is not known: choose one of paper, small, tiny"),
        (["--corpora", "nowhere"], "--corpora nowhere is not a folder"),
        (["--reference", "nowhere"], "--reference nowhere is not a folder"),
        (["--table", "3", "--executor", "cloud"], "--executor cloud is not known: choose one of"),
        (["--table", "3", "--dry_run", "--executor", "rya"], "is not known: did you mean ray?"),
        (["--table", "3", "--dry_run", "--dtype", "float23"], "did you mean float32?"),
        (["--table", "3", "--model", "tiny"], "OpenWebText can only be streamed where"),
        (["--table", "3", "--model", "tiny"], "--model tiny learns its own: pass --corpora DIR"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    capsys: Any, tmp_path: Path, options: list[str], sentence: str
) -> None:
    assert main(["reproduce", *options, "--output_dir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_the_whole_paper_is_not_begun_by_accident(capsys: Any, tmp_path: Path) -> None:
    out = tmp_path / "results"
    for words in ([], ["--model", "tiny"]):
        assert main(["reproduce", *words, "--output_dir", str(out)]) == 2
        assert "name a part with --table or --figure" in capsys.readouterr().err
    assert not out.exists()


def test_a_reference_that_is_no_model_is_refused(capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    for place in ("nothing", "nowhere"):
        words = ["--table", "3", "--model", "tiny", "--dry_run"]
        assert main(["reproduce", *words, "--reference", str(tmp_path / place)]) == 2
        assert f"--reference {tmp_path / place}" in capsys.readouterr().err


def test_an_unknown_method_is_named(capsys: Any) -> None:
    assert main(["reproduce", "--table", "3", "--dry_run", "--method", "mft"]) == 2
    assert "--method mft is not known: did you mean MFT?" in capsys.readouterr().err
