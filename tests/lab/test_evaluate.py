"""`mft evaluate` measures the models that were trained, over the same tokens, or refuses."""

import json
from pathlib import Path

import pytest

from minifinetuning.cli import main
from minifinetuning.errors import InputError
from minifinetuning.models.loading import load_tokenizer


@pytest.fixture
def model_folder(saved_model):
    return saved_model()


@pytest.fixture
def texts(text_files):
    specialized, general = text_files(16)
    return ["--data", specialized, "--general", general]


def run(*words):
    return main([str(word) for word in words])


@pytest.mark.parametrize("adapter", [(), ("--adapter", "lora")], ids=["full", "lora"])
def test_evaluate_and_train_say_the_same_to_the_last_digit(model_folder, texts, tmp_path, adapter):
    output, figures = tmp_path / "out", tmp_path / "figures.json"
    texts = [*texts, "--sequence_length", 64]
    words = ["--learning_rate", 1e-2, "--max_steps", 4, "--eval_steps", 2, "--save_steps", 2]
    words += ["--per_device_train_batch_size", 2, "--gradient_accumulation_steps", 1, *adapter]
    assert run("train", "--model", model_folder, *texts, *words, "--output_dir", output) == 0
    words = ["--model", output, "--reference", model_folder, "--output", figures]
    assert run("evaluate", *texts, *words) == 0
    trained, evaluated = (
        json.loads(path.read_text()) for path in (output / "metrics.json", figures)
    )
    assert trained["specialization"] > 1
    for name in ("reference", "tuned", "specialization", "degeneralization", "ratio", "intervals"):
        assert evaluated[name] == trained[name], name
    words = ["--model", output, "--reference", output, "--output", figures]
    assert run("evaluate", *texts, *words) == 0
    evaluated = json.loads(figures.read_text())
    assert (evaluated["specialization"], evaluated["degeneralization"]) == (0, 0)
    assert evaluated["reference"] == trained["tuned"]


def exchange_two_tokens(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    one, other = sorted(vocabulary)[-2:]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    (folder / "tokenizer.json").write_text(json.dumps(content))


def test_two_tokenizers_are_refused(model_folder, texts, tmp_path, tiny_model, tokenizer, capsys):
    tuned = tmp_path / "tuned"
    tiny_model("llama").save_pretrained(tuned)
    tokenizer.save_pretrained(tuned)
    words = ["evaluate", "--model", tuned, "--reference", model_folder, *texts]
    words += ["--sequence_length", 64]
    exchange_two_tokens(tuned)
    assert run(*words) == 2
    assert "have different tokenizers" in capsys.readouterr().err
    for file in tuned.glob("tokenizer*"):
        file.unlink()
    assert run(*words) == 0


def test_a_folder_without_a_tokenizer_is_not_taken_for_one_of_special_tokens(tmp_path, tiny_model):
    """For some families transformers makes up a tokenizer where no file is."""
    tiny_model("gpt2").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has no tokenizer: its files"):
        load_tokenizer(str(tmp_path))
