"""What a run leaves behind, checkpoints included, can be read where it was not made."""

import json

import pytest

from minifinetuning.cli import main


@pytest.fixture
def run(tmp_path, tiny_model, tokenizer, sentences, monkeypatch):
    """`run(*words)`: `mft train` on a published model, all paths relative; its output folder."""
    monkeypatch.chdir(tmp_path)
    rope = {"rope_type": "linear", "rope_theta": 5e4, "factor": 2.0}
    tiny_model("llama", rope_parameters=rope).save_pretrained("models/base")
    tokenizer.save_pretrained("models/base")
    (tmp_path / "models/base/generation_config.json").write_text(
        json.dumps({"do_sample": False, "temperature": 0.9, "top_p": 0.6, "eos_token_id": 0})
    )
    lines = [json.dumps({"text": text}) for text in sentences(16, 1)]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))

    def make(*words):
        command = ["train", "--model", "models/base", "--output_dir", "out"]
        command += ["--data", "data.jsonl"]
        command += ["--sequence_length", "64", "--max_steps", "2", "--eval_steps", "1"]
        command += ["--learning_rate", "1e-2", "--per_device_train_batch_size", "2"]
        assert main([*command, *words]) == 0
        return tmp_path / "out"

    return make


def folders(output):
    """The result and each checkpoint, of which there are some."""
    checkpoints = [*output.glob("checkpoint-*")]
    assert checkpoints
    return [output, *checkpoints]


def test_a_model_and_its_checkpoints_are_read_by_older_programs(run):
    for folder in folders(run()):
        config, generation, tokenizer = (
            json.loads((folder / f"{name}.json").read_text())
            for name in ("config", "generation_config", "tokenizer_config")
        )
        assert config["rope_theta"] == 5e4
        assert config["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}
        assert not generation.keys() & {"temperature", "top_p"}
        assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
        assert not tokenizer.keys() & {"is_local", "local_files_only"}


def test_an_adapter_and_its_checkpoints_name_their_base_from_anywhere(run, tmp_path, monkeypatch):
    output = run("--adapter", "lora")
    for folder in folders(output):
        settings = json.loads((folder / "adapter_config.json").read_text())
        assert settings["base_model_name_or_path"] == str(tmp_path / "models/base")
    card = (output / "README.md").read_text()
    assert str(tmp_path) not in card
    assert "models/base" not in card
    monkeypatch.chdir(output)
    words = ["train", "--model", "../out", "--output_dir", "../again", "--max_steps", "1"]
    words += ["--data", "../data.jsonl", "--sequence_length", "64"]
    assert main(words) == 0
    assert (tmp_path / "again" / "model.safetensors").is_file()
