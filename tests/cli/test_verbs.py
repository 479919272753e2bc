"""The verbs as a person types them: what they write, and how they refuse."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from minifinetuning.cli import main
from minifinetuning.cli.parsing import parsed

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def model_folder(tmp_path: Path, llama: Any, tokenizer: PreTrainedTokenizerFast) -> Path:
    folder = tmp_path / "model"
    llama.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def texts(tmp_path: Path, sentences: Callable[[int, int], list[str]]) -> dict[str, Path]:
    """A folder of files and a table."""
    data, general = tmp_path / "data", tmp_path / "general.jsonl"
    data.mkdir()
    for number, sentence in enumerate(sentences(40, 1)):
        (data / f"{number}.txt").write_text(sentence)
    rows = [json.dumps({"text": sentence[::-1]}) for sentence in sentences(20, 2)]
    general.write_text("\n".join(rows))
    return {"data": data, "general": general}


def command(model: Path, texts: dict[str, Path], output: Path, /, **options: object) -> list[str]:
    settings: dict[str, object] = {
        "model": model,
        "data": texts["data"],
        "general": texts["general"],
        "output_dir": output,
        "sequence_length": 64,
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-3,
        "eval_steps": 2,
        "save_steps": 2,
        "bf16": False,
        "save_only_model": True,
    }
    pairs = (settings | options).items()
    return ["train", *(str(word) for name, value in pairs for word in (f"--{name}", value))]


EXAMPLES = Path(__file__).parents[2] / "examples"


def sentence_of(error: str) -> str:
    """The one line that a refusal prints."""
    # A progress bar may have moved the cursor before it.
    plain = error.replace("\x1b[A", "\n").replace("\r", "\n")
    lines = [line for line in plain.splitlines() if line.startswith("mft: ")]
    assert len(lines) == 1, error
    assert "Traceback" not in error
    return lines[0]


def plain_perplexity(model: Any, sequences: list[torch.Tensor], end: int) -> float:
    """Over text positions alone: what closes a document is not counted."""
    losses, tokens = 0.0, 0
    for ids in sequences:
        with torch.no_grad():
            logits = model(ids[None]).logits[0, :-1].double()
        text = ids[1:] != end
        losses += float(
            torch.nn.functional.cross_entropy(logits[text], ids[1:][text], reduction="sum")
        )
        tokens += int(text.sum())
    return float(torch.tensor(losses / tokens).exp())


def test_train_writes_a_checkpoint_that_plain_transformers_loads(
    model_folder: Path, texts: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    output = tmp_path / "out"
    assert main(command(model_folder, texts, output)) == 0
    metrics = json.loads((output / "metrics.json").read_text())
    assert {"reference", "tuned", "specialization", "degeneralization", "ratio"} <= set(metrics)
    assert {"intervals", "step", "configuration", "versions", "device", "seed"} <= set(metrics)
    assert metrics["configuration"]["max_steps"] == metrics["full_configuration"]["max_steps"] == 4
    assert metrics["full_configuration"]["adam_beta2"] == 0.999
    assert set(metrics["tuned"]) == {"specialized_perplexity", "general_perplexity"}
    assert [entry["step"] for entry in metrics["history"]] == [0, 2, 4]
    assert "S %" in capsys.readouterr().out
    assert "minifinetuning" in (output / "README.md").read_text()
    assert [path.name for path in output.glob(".*")] == [".minifinetuning.json"]

    from minifinetuning.data import read_corpus

    tokenizer = AutoTokenizer.from_pretrained(output)
    tuned = AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32).eval()
    assert tuned.config.use_cache
    validation = read_corpus([str(texts["data"])], tokenizer, sequence_length=64).validation
    rows = [validation[index] for index in range(len(validation))]
    sequences = [row["input_ids"][row["attention_mask"].bool()] for row in rows]
    expected = metrics["tuned"]["specialized_perplexity"]
    assert plain_perplexity(tuned, sequences, 0) == pytest.approx(expected, rel=1e-5)
    before = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    expected = metrics["reference"]["specialized_perplexity"]
    assert plain_perplexity(before, sequences, 0) == pytest.approx(expected, rel=1e-5)


def test_adapter_run_loads_with_peft(
    model_folder: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    assert main(command(model_folder, texts, output, adapter="lora", rank=2)) == 0
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    assert PeftModel.from_pretrained(base, output).peft_config["default"].r == 2
    assert json.loads((output / "metrics.json").read_text())["method"] == "lora+mft"


def test_options_from_a_yaml_file(
    model_folder: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    words = command(model_folder, texts, tmp_path / "out")[1:]
    options = dict(zip((word[2:] for word in words[::2]), words[1::2], strict=True))
    lines = [
        f"{name}: {value}" for name, value in options.items() if name not in ("data", "general")
    ]
    lines += [f"{name}: [{options[name]}]" for name in ("data", "general")]
    file = tmp_path / "run.yaml"
    file.write_text("\n".join(lines))
    assert main(["train", str(file)]) == 0
    assert (tmp_path / "out" / "metrics.json").exists()


def as_cache(words: list[str]) -> list[str]:
    """`mft cache` with those of the options of `mft train` that it has."""
    kept = ("model", "data", "general", "sequence_length", "bf16", "per_device_train_batch_size")
    pairs = zip(words[1::2], words[2::2], strict=True)
    return ["cache", *(word for pair in pairs if pair[0][2:] in kept for word in pair)]


def test_a_cache_made_ahead_knows_how_much_text_is_added(
    model_folder: Path, texts: dict[str, Path], tmp_path: Path, capsys: Any, caplog: Any
) -> None:
    folder = tmp_path / "teacher"
    added = {"replay": "self", "replay_share": 0.5, "teacher_cache": folder}
    words = command(model_folder, texts, tmp_path / "out", objective="ft", max_steps=8, **added)
    ahead = [word for pair in added.items() for word in (f"--{pair[0]}", str(pair[1]))]
    cached = [*as_cache(command(model_folder, texts, tmp_path / "out", max_steps=8)), *ahead]
    assert main(cached) == 0
    assert "to be computed" in capsys.readouterr().out
    assert main(words) == 0
    # Plain finetuning asks the teacher about the replayed text, which lies below the other.
    assert f"already there, in {folder / 'replay'}" in caplog.text
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    told = metrics["configuration"]
    assert (told["replay_share"], told["replay_weight"]) == (0.5, 1.0)
    assert told["replay_objective"] == "distillation"
    sequences = [metrics["data"][name]["train_sequences"] for name in ("replay", "specialized")]
    assert sequences[0] == round(0.5 * sequences[1])


def test_a_cache_of_replayed_text_alone_is_found_again_and_added_to(
    model_folder: Path, texts: dict[str, Path], tmp_path: Path, caplog: Any
) -> None:
    folder = tmp_path / "teacher"
    added = {"replay": "self", "replay_share": 0.5, "teacher_cache": folder, "max_steps": 8}
    for number, objective in enumerate(("ft", "ft", "mft")):
        caplog.clear()
        out = tmp_path / f"out-{number}"
        assert main(command(model_folder, texts, out, objective=objective, **added)) == 0
        assert ("already there" in caplog.text) == (number > 0)
    assert (folder / "cache.json").exists()
    assert (folder / "replay" / "cache.json").exists()


@pytest.mark.parametrize("general", [True, False])
@pytest.mark.parametrize("adapter", [[], ["--adapter", "lora", "--rank", "2"]])
def test_a_cache_made_ahead_is_the_one_that_training_takes(
    model_folder: Path,
    texts: dict[str, Path],
    tmp_path: Path,
    capsys: Any,
    caplog: Any,
    own_cache: Path,
    adapter: list[str],
    general: bool,
) -> None:
    words = [*command(model_folder, texts, tmp_path / "out", max_steps=8), *adapter]
    if not general:
        at = words.index("--general")
        words = words[:at] + words[at + 2 :]
    assert main([*as_cache(words[: len(words) - len(adapter)]), *adapter]) == 0
    said = capsys.readouterr().out
    kind = "expected-embedding" if adapter else "hidden-state"
    assert f"teacher: {kind} cache" in said
    assert "to be computed" in said
    folders = sorted((own_cache / "teachers").iterdir())
    assert len(folders) == (1 if general else 2)
    assert all(str(folder) in said for folder in folders)
    assert main(words) == 0
    assert "already there" in caplog.text
    teacher = json.loads((tmp_path / "out" / "metrics.json").read_text())["teacher"]
    assert teacher["cache"] == ("expected" if adapter else "hidden")
    assert teacher["bytes"] > 0
    assert sorted((own_cache / "teachers").iterdir()) == folders
    assert main([*as_cache(words[: len(words) - len(adapter)]), *adapter]) == 0
    assert "already there" in capsys.readouterr().out


def test_a_foreign_cache_is_refused_before_training(
    model_folder: Path, texts: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    folder = tmp_path / "teacher"
    options = {"teacher_cache": folder}
    assert (
        main(
            [
                *as_cache(command(model_folder, texts, tmp_path / "out")),
                "--teacher_cache",
                str(folder),
            ]
        )
        == 0
    )
    assert main(command(model_folder, texts, tmp_path / "out", **options)) == 0
    other = {"sequence_length": 32, **options}
    assert main(command(model_folder, texts, tmp_path / "other", **other)) == 2
    assert "is of another text" in sentence_of(capsys.readouterr().err)
    assert not (tmp_path / "other" / "metrics.json").exists()


def test_nothing_cannot_be_cached(
    model_folder: Path, texts: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    words = as_cache(command(model_folder, texts, tmp_path / "out"))
    assert main([*words, "--teacher_cache", "none"]) == 2
    assert "leaves nothing to compute" in sentence_of(capsys.readouterr().err)


def test_evaluate_agrees_with_the_training_run(
    model_folder: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    output, figures = tmp_path / "out", tmp_path / "figures.json"
    assert main(command(model_folder, texts, output, bf16=True)) == 0
    words = ["evaluate", "--model", output, "--reference", model_folder, "--output", figures]
    words += ["--data", texts["data"], "--general", texts["general"], "--sequence_length", 64]
    assert main([str(word) for word in words]) == 0
    trained, evaluated = (
        json.loads(path.read_text()) for path in (output / "metrics.json", figures)
    )
    for key in ("specialization", "degeneralization"):
        assert evaluated[key] == pytest.approx(trained[key], abs=0.05)
    assert evaluated["forward_kl"] > 0


def test_prepared_reference_has_never_seen_the_general_validation_text(
    model_folder: Path, texts: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    output = tmp_path / "reference"
    words = ["prepare-reference", "--model", model_folder, "--general", texts["general"]]
    words += ["--output_dir", output, "--sequence_length", 64, "--learning_rate", 1e-2]
    words += ["--per_device_train_batch_size", 2, "--gradient_accumulation_steps", 1]
    words += ["--num_train_epochs", 3, "--bf16", False]
    assert main([str(word) for word in words]) == 0
    metrics = json.loads((output / "metrics.json").read_text())
    before, after = (metrics[name]["general_perplexity"] for name in ("reference", "tuned"))
    assert after < before
    assert f"{after:.2f}" in capsys.readouterr().out
    AutoModelForCausalLM.from_pretrained(output)

    run = tmp_path / "out"
    assert main(command(output, texts, run)) == 0
    measured = json.loads((run / "metrics.json").read_text())
    assert measured["reference"]["general_perplexity"] == pytest.approx(after, rel=1e-4)


def test_a_reference_tuned_by_an_adapter_is_a_whole_model(
    model_folder: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    output = tmp_path / "reference"
    words = ["prepare-reference", "--model", model_folder, "--general", texts["general"]]
    words += ["--output_dir", output, "--sequence_length", 64, "--adapter", "lora"]
    words += ["--learning_rate", 1e-2, "--per_device_train_batch_size", 2, "--bf16", False]
    words += ["--gradient_accumulation_steps", 1]
    assert main([str(word) for word in words]) == 0
    assert not list(output.glob("adapter*"))
    after = json.loads((output / "metrics.json").read_text())["tuned"]["general_perplexity"]
    run = tmp_path / "out"
    assert main(command(output, texts, run, adapter="lora")) == 0
    measured = json.loads((run / "metrics.json").read_text())
    assert measured["reference"]["general_perplexity"] == pytest.approx(after, rel=1e-4)


def test_reference_keeps_step_0_where_training_only_hurts(
    model_folder: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    output = tmp_path / "reference"
    words = ["prepare-reference", "--model", model_folder, "--general", texts["general"]]
    words += ["--output_dir", output, "--sequence_length", 64, "--learning_rate", 1]
    words += ["--per_device_train_batch_size", 2, "--max_steps", 4, "--warmup_steps", 0]
    assert main([str(word) for word in words]) == 0
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["step"] == 0
    assert metrics["tuned"] == metrics["reference"]
    kept = AutoModelForCausalLM.from_pretrained(output).state_dict()
    given = AutoModelForCausalLM.from_pretrained(model_folder).state_dict()
    assert all(torch.equal(kept[name], given[name]) for name in given)


def test_reference_saves_every_step_that_it_may_keep(
    model_folder: Path, texts: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    words = ["prepare-reference", "--model", model_folder, "--general", texts["general"]]
    words += ["--output_dir", tmp_path / "reference", "--eval_steps", 1, "--save_steps", 2]
    assert main([str(word) for word in words]) == 2
    assert "--save_steps" in sentence_of(capsys.readouterr().err)


def test_resumed_run_goes_on(
    model_folder: Path, texts: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    output = tmp_path / "out"
    options = {"save_only_model": False, "lr_scheduler_type": "constant", "warmup_steps": 0}
    assert main(command(model_folder, texts, output, **options)) == 0
    options |= {"resume_from_checkpoint": True, "max_steps": 8}
    assert main(command(model_folder, texts, output, **options)) == 0
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["last_step"] == 8
    assert [entry["step"] for entry in metrics["history"]] == [0, 2, 4, 6, 8]
    capsys.readouterr()
    nowhere = texts | {"data": Path("/no/such/text")}
    assert main(command(model_folder, nowhere, output, **options, tau=0.5)) == 2
    assert "is of another training: --tau was 0.25 and is 0.5" in sentence_of(
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "/no/such/model"}, ["/no/such/model", "does not exist"]),
        ({"data": "/no/such/text"}, ["/no/such/text"]),
        ({"tau": 1.5}, ["--tau", "between 0 and 1"]),
        ({"objective": "magic"}, ["magic", "mft"]),
        ({"objective": "kl", "kl_weight": -1}, ["--kl_weight", "0 or above"]),
        ({"adapter": "magic"}, ["--adapter", "lora"]),
        ({"sequence_length": 4096}, ["--sequence_length", "128"]),
        ({"sequence_length": 1}, ["sequence_length"]),
        ({"train_tokens": "many"}, ["many"]),
        ({"max_degeneralization": -1}, ["--max_degeneralization"]),
        ({"max_degeneralization": "nan"}, ["--max_degeneralization"]),
        ({"label_smoothing_factor": 0.1}, ["--label_smoothing_factor"]),
        ({"learning_rate": -1}, ["--learning_rate"]),
        ({"teacher_cache": "hiden"}, ["--teacher_cache", "hidden"]),
        ({"dtype": "int3"}, ["--dtype", "float32"]),
        ({"resume_from_checkpoint": True}, ["checkpoint"]),
        ({"magic": 1}, ["--magic"]),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(
    model_folder: Path,
    texts: dict[str, Path],
    tmp_path: Path,
    capsys: Any,
    options: dict[str, object],
    words: list[str],
) -> None:
    output = tmp_path / "out"
    assert main(command(model_folder, texts, output, **options)) == 2
    sentence = sentence_of(capsys.readouterr().err)
    assert all(word in sentence for word in words), sentence
    assert not (output / "metrics.json").exists()
    assert not list(output.glob("*.safetensors"))


def test_small_or_empty_corpora_are_refused(
    model_folder: Path, texts: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    empty, small = tmp_path / "empty", tmp_path / "small.txt"
    empty.mkdir()
    small.write_text("the cell heart drug")
    for path, word in ((empty, "empty"), (small, "small.txt")):
        changed = texts | {"data": path}
        assert main(command(model_folder, changed, tmp_path / "out")) == 2
        assert word in sentence_of(capsys.readouterr().err)


def test_tokenizer_without_eos_is_refused(
    model_folder: Path, texts: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(model_folder)
    assert main(command(model_folder, texts, tmp_path / "out")) == 2
    assert "eos_token" in sentence_of(capsys.readouterr().err)


def test_previous_run_is_never_mixed_with(
    model_folder: Path, texts: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    output = tmp_path / "out"
    assert main(command(model_folder, texts, output, adapter="lora")) == 0
    (output / "notes.txt").write_text("mine")
    before = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    assert main(command(model_folder, texts, output)) == 2
    assert "--overwrite_output_dir" in sentence_of(capsys.readouterr().err)
    # Whatever ends a run before it trains, what it was to replace is still there.
    bad = command(model_folder, texts, output, overwrite_output_dir=True, data="/no/such/text")
    assert main(bad) == 2
    assert {path.name: path.stat().st_mtime_ns for path in output.iterdir()} == before
    checkpoint = output / "checkpoint-4"
    assert (checkpoint / "adapter_config.json").exists()
    assert main(command(model_folder, texts, output, overwrite_output_dir=True)) == 0
    for folder in (output, checkpoint):
        assert not (folder / "adapter_config.json").exists()
        assert (folder / "model.safetensors").exists()
    assert (output / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("verb", ["train", "prepare-reference"])
def test_the_users_model_is_never_replaced(
    model_folder: Path, texts: dict[str, Path], tmp_path: Path, capsys: Any, verb: str
) -> None:
    before = {path.name: path.read_bytes() for path in model_folder.iterdir()}
    words = command(model_folder, texts, model_folder, overwrite_output_dir=True)
    if verb == "prepare-reference":
        at = words.index("--data")
        words = [verb, *words[1:at], *words[at + 2 :]]
    assert main(words) == 2
    assert f"is --model {model_folder}" in sentence_of(capsys.readouterr().err)
    assert {path.name: path.read_bytes() for path in model_folder.iterdir()} == before


@pytest.mark.parametrize("output", ["file/out", "x" * 300, "file", "out-\udcfc"])
def test_an_impossible_output_is_known_before_anything_is_read(
    texts: dict[str, Path], tmp_path: Path, capsys: Any, output: str
) -> None:
    (tmp_path / "file").touch()
    assert main(command(Path("/no/such/model"), texts, tmp_path / output)) == 2
    assert "--output_dir" in sentence_of(capsys.readouterr().err)


def test_a_full_disk_is_known_before_the_texts_are_read(
    model_folder: Path, texts: dict[str, Path], tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    size = (model_folder / "model.safetensors").stat().st_size
    free = SimpleNamespace(free=2 * size - 1)
    monkeypatch.setattr("minifinetuning.training.writable.disk_usage", lambda _: free)
    assert main(command(model_folder, texts, tmp_path / "out", data="/no/such/text")) == 2
    assert "or more, and its disk has" in sentence_of(capsys.readouterr().err)
    # An adapter is small, and here another sentence comes first.
    words = command(model_folder, texts, tmp_path / "out", data="/no/such/text", adapter="lora")
    assert main(words) == 2
    assert "/no/such/text" in sentence_of(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("model/figures.json", "lies in --model"),
        ("general.jsonl", "is --general"),
        ("data/figures.json", "lies in --data"),
        ("notes.txt", "holds no figures of ours"),
        ("notes.txt/figures.json", "cannot be written"),
        ("data", "is --data"),
        ("other", "is a folder"),
    ],
)
def test_evaluate_replaces_nothing_but_figures(
    model_folder: Path, texts: dict[str, Path], tmp_path: Path, capsys: Any, output: str, said: str
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "other").mkdir()
    before = sorted(tmp_path.rglob("*"))
    words = ["evaluate", "--model", model_folder, "--reference", "/no/such/model"]
    words += ["--data", texts["data"], "--general", texts["general"]]
    assert main([str(word) for word in (*words, "--output", tmp_path / output)]) == 2
    assert said in sentence_of(capsys.readouterr().err)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_diverged_run_stops_and_names_the_last_good_checkpoint(
    model_folder: Path, texts: dict[str, Path], tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    from minifinetuning.training.trainer import MFTTrainer

    plain = MFTTrainer.compute_loss

    def breaking(self: Any, *args: Any, **kwargs: Any) -> Any:
        loss = plain(self, *args, **kwargs)
        return loss * float("nan") if self.state.global_step == 3 else loss

    monkeypatch.setattr(MFTTrainer, "compute_loss", breaking)
    output = tmp_path / "out"
    options = {"logging_steps": 1, "save_only_model": False, "max_steps": 6}
    assert main(command(model_folder, texts, output, **options)) == 2
    sentence = sentence_of(capsys.readouterr().err)
    assert "checkpoint-2" in sentence
    assert "--learning_rate" in sentence
    assert (output / "checkpoint-2" / "model.safetensors").exists()
    assert not (output / "model.safetensors").exists()


def test_negative_degeneralization_is_warned_of() -> None:
    from minifinetuning.report import about_unprepared

    for interval in ([0.1, 0.3], [-0.1, 0.2], [None, None], None):
        intervals = {"degeneralization": interval}
        assert not about_unprepared({"mft": {"method": "mft", "intervals": intervals}})
    metrics = {"method": "mft", "intervals": {"degeneralization": [-1.2, -0.8]}}
    assert "prepare-reference" in about_unprepared({"mft": metrics})


@pytest.mark.parametrize(
    "verb", ["train", "cache", "write", "evaluate", "prepare-reference", "demo"]
)
def test_help_is_short_and_grouped(verb: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) < 75
    assert f"mft {verb}" in text
    assert "--no_" not in text


def test_what_can_be_known_at_once_is_refused_before_the_texts_are_read(
    model_folder: Path, texts: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    nowhere = texts | {"data": Path("/no/such/text")}
    words = command(model_folder, nowhere, tmp_path / "out", resume_from_checkpoint=True)
    assert main(words) == 2
    assert "checkpoint" in sentence_of(capsys.readouterr().err)


def test_the_model_writes_what_is_replayed_and_what_forgetting_is_measured_on(
    model_folder: Path, texts: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    options = {"replay": "self", "general": "self", "replay_objective": "distillation"}
    words = command(
        model_folder,
        texts,
        tmp_path / "out",
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        ewc_lambda=1.0,
        **options,
    )
    assert main(words) == 0
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["data"]["replay"]["sources"] == metrics["data"]["general"]["sources"] == ["self"]
    card = (tmp_path / "out/README.md").read_text()
    assert "under that model's own distribution" in card
    assert "Replayed text was trained on" in card
    assert "that the model wrote itself" in capsys.readouterr().err


def test_text_that_is_written_ahead_is_what_training_takes(
    model_folder: Path, texts: dict[str, Path], tmp_path: Path, capsys: Any, own_cache: Path
) -> None:
    words = command(model_folder, texts, tmp_path / "out", replay="self", max_steps=2)
    kept = ("model", "data", "sequence_length", "train_tokens", "validation_tokens", "replay")
    pairs = [pair for pair in zip(words[1::2], words[2::2], strict=True) if pair[0][2:] in kept]
    ahead = ["write", *(word for pair in pairs for word in pair)]
    assert main(ahead) == 0
    said = capsys.readouterr()
    (parts,) = (own_cache / "self-written").iterdir()
    written = {path: path.stat().st_mtime_ns for path in parts.iterdir()}
    assert "tokens are written, after" in said.out
    assert "that the model wrote itself" in said.err
    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in parts.iterdir()} == written
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert f"{metrics['data']['replay']['train_tokens']:,} tokens are written" in said.out
    assert len(list((own_cache / "self-written").iterdir())) == 1
    assert main([word if word != "self" else str(texts["data"]) for word in ahead]) == 2
    assert "--replay self" in sentence_of(capsys.readouterr().err)


def test_tau_is_chosen_within_a_budget(
    model_folder: Path, texts: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    words = command(
        model_folder, texts, tmp_path / "out", tau="auto", max_degeneralization=50.0, max_steps=8
    )
    assert main(words) == 0
    shown = capsys.readouterr().out
    for said in ("| τ ", "budget of 50 %", "chosen", "no part in the choice", "S %"):
        assert said in shown
    assert main([*command(model_folder, texts, tmp_path / "other", tau="auto")]) == 2
    assert "--max_degeneralization" in sentence_of(capsys.readouterr().err)


def test_an_adapter_on_an_adapter_is_refused(
    model_folder: Path, texts: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    assert main(command(model_folder, texts, tmp_path / "one", adapter="lora", max_steps=2)) == 0
    words = command(tmp_path / "one", texts, tmp_path / "two", adapter="lora")
    assert main(words) == 2
    assert "merge it first" in sentence_of(capsys.readouterr().err)
    assert not (tmp_path / "two/metrics.json").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"replay_objective": "distillation"}, "--replay"),
        ({"new_data_fraction": 1.5}, "--new_data_fraction"),
        ({"new_data_fraction": 0.3, "replay": "self"}, "--new_data_fraction 0.3 of 2 sequences"),
        ({"ewc_lambda": -1}, "--ewc_lambda"),
        ({"tau": "much"}, "much"),
    ],
)
def test_options_of_replay_and_ewc_are_checked_before_any_work(
    model_folder: Path,
    texts: dict[str, Path],
    tmp_path: Path,
    capsys: Any,
    options: dict[str, Any],
    said: str,
) -> None:
    try:
        code = main(command(model_folder, texts, tmp_path / "out", **options))
    except SystemExit as left:
        code = int(left.code or 0)
    assert code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_unknown_verb(capsys: Any) -> None:
    assert main(["tarin"]) == 2
    assert "train" in sentence_of(capsys.readouterr().err)
    assert main([]) == 0
    assert "mft demo" in capsys.readouterr().out


def test_commands_of_the_readme_are_understood() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert len(readme.splitlines()) < 200
    commands = re.findall(r"^    mft (.+)$", readme, re.M) + re.findall(r"`mft (demo.*?)`", readme)
    assert len(commands) >= 4
    for line in [*commands, f"train {EXAMPLES / 'handbook.yaml'}"]:
        verb, *words = line.split()
        assert parsed(verb, words)


def test_python_of_the_readme_runs(
    model_folder: Path, texts: dict[str, Path], tmp_path: Path, monkeypatch: Any
) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.S)
    code = code.replace("path/to/model", str(model_folder)).replace("1024", "64")
    code = code.replace("handbook/", str(texts["data"])).replace("general/", str(texts["general"]))
    code = code.replace('output_dir="adapted"', 'output_dir="adapted", max_steps=10, bf16=False')
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["trainer"].state.global_step == 10
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "adapted", dtype="float32")
    for name, value in names["trainer"].model.named_parameters():
        assert torch.equal(saved.get_parameter(name), value), name
    assert AutoTokenizer.from_pretrained(tmp_path / "adapted").eos_token == "<eos>"


def test_a_budget_that_nothing_measures_is_refused(
    model_folder: Path, texts: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    words = command(model_folder, texts, tmp_path / "out", max_degeneralization=1.0)
    at = words.index("--general")
    assert main(words[:at] + words[at + 2 :]) == 2
    assert "--general" in sentence_of(capsys.readouterr().err)
