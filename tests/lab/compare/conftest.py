"""A tiny model, two tables of text, and comparisons on them."""

import json

import pytest

from minifinetuning.data.config import DataConfig
from minifinetuning.lab.compare import comparison_of
from minifinetuning.models.config import ModelConfig
from minifinetuning.training.config import ComparisonConfig


@pytest.fixture
def material(tmp_path, llama, tokenizer, sentences):
    """The paths of a model, a specialized and a general text."""
    paths = {name: tmp_path / name for name in ("model", "own.jsonl", "general.jsonl")}
    llama.save_pretrained(paths["model"])
    tokenizer.save_pretrained(paths["model"])
    for name, seed, turned in (("own.jsonl", 1, 1), ("general.jsonl", 2, -1)):
        rows = [json.dumps({"text": text[::turned]}) for text in sentences(30, seed)]
        paths[name].write_text("\n".join(rows))
    return paths


@pytest.fixture
def comparison(material, tmp_path):
    """`comparison(methods, **changes)`: four steps of two sequences, evaluated twice."""

    def make(methods, folder="out", data=None, **changes):
        own = {name: changes.pop(name) for name in ("learning_rates", "seeds") if name in changes}
        settings = {
            "output_dir": str(tmp_path / folder),
            "max_steps": 4,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 1,
            "learning_rate": 1e-3,
            "eval_steps": 2,
            "bf16": False,
            "use_cpu": True,
            "disable_tqdm": True,
        }
        text = {
            "data": [str(material["own.jsonl"])],
            "general": [str(material["general.jsonl"])],
            "sequence_length": 64,
        }
        return comparison_of(
            ModelConfig(str(material["model"])),
            DataConfig(**(text | (data or {}))),
            ComparisonConfig(**(settings | changes)),
            methods=methods,
            **own,
        )

    return make
