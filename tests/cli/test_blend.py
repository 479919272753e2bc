"""`mft blend` as a person types it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from minifinetuning.cli import main

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def words(
    tmp_path: Path,
    llama: Any,
    tokenizer: PreTrainedTokenizerFast,
    sentences: Callable[[int, int], list[str]],
) -> list[str]:
    """The command between a model and the same after a few steps on the specialized text."""
    for name, seed in (("data", 1), ("general", 2)):
        rows = [json.dumps({"text": text}) for text in sentences(20, seed)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    save(llama, tokenizer, tmp_path / "reference")
    batch = torch.tensor(tokenizer(" ".join(sentences(20, 1)))["input_ids"][:256]).view(4, 64)
    optimizer = torch.optim.SGD(llama.parameters(), lr=0.5)
    for _ in range(5):
        llama(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    save(llama, tokenizer, tmp_path / "tuned")
    options = {
        "reference": tmp_path / "reference",
        "tuned": tmp_path / "tuned",
        "data": tmp_path / "data.jsonl",
        "general": tmp_path / "general.jsonl",
        "output_dir": tmp_path / "out",
        "sequence_length": 64,
    }
    return [
        "blend",
        *(str(word) for name, value in options.items() for word in (f"--{name}", value)),
    ]


def save(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def sentence_of(error: str) -> str:
    """The one line that a refusal prints."""
    plain = error.replace("\x1b[A", "\n").replace("\r", "\n")
    (line,) = (line for line in plain.splitlines() if line.startswith("mft: "))
    assert "Traceback" not in error
    return line


def test_blend_prints_every_point_and_writes_the_best(
    words: list[str], tmp_path: Path, capsys: Any
) -> None:
    assert main([*words, "--coefficients", "0.25", "0.5"]) == 0
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.startswith("| c = ")]
    assert [row.split("|")[1].split()[2] for row in rows] == ["0.25", "0.5", "1"]
    assert sum("(kept)" in row for row in rows) == 1
    output = tmp_path / "out"
    c = json.loads((output / "metrics.json").read_text())["coefficient"]
    assert printed.splitlines()[-1] == f"c = {c:g} was kept in {output}"
    AutoModelForCausalLM.from_pretrained(output)
    AutoTokenizer.from_pretrained(output)
    assert f"**c = {c:g}**" in (output / "README.md").read_text()
    assert (output / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert {path.stat().st_mode & 0o777 for path in output.iterdir()} == {
        (output / "metrics.json").stat().st_mode & 0o777
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tuned", "/no/such/model"], "/no/such/model is no model folder"),
        (["--reference", "tiny.gguf"], "tiny.gguf is a GGUF"),
        (["--coefficients", "2"], "--coefficients must be between 0 and 1"),
        (["--max_degeneralization", "-1"], "--max_degeneralization must be a percentage above 0"),
        (["--magic", "1"], "--magic"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(
    words: list[str], tmp_path: Path, capsys: Any, options: list[str], said: str
) -> None:
    assert main([*words, *options]) == 2
    assert said in sentence_of(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_an_output_folder_in_use_is_refused(words: list[str], tmp_path: Path, capsys: Any) -> None:
    assert main([*words, "--output_dir", str(tmp_path / "tuned")]) == 2
    assert f"is --tuned {tmp_path / 'tuned'}" in sentence_of(capsys.readouterr().err)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").touch()
    assert main(words) == 2
    assert "is not empty" in sentence_of(capsys.readouterr().err)


def test_help_is_short_and_grouped(capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["blend", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) < 40
    assert "[0.2 0.4 0.6 0.8]" in text
    assert main([]) == 0
    assert "mft blend" in capsys.readouterr().out
