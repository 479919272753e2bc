"""Tiny models and texts, and comparisons and reproductions on them that take seconds."""

import json
from dataclasses import replace

import pytest

from minifinetuning.data.config import DataConfig
from minifinetuning.lab.compare import comparison_plan
from minifinetuning.lab.paper.models import TINY, paper_model
from minifinetuning.lab.paper.plan import plan_of
from minifinetuning.lab.paper.protocol import PROTOCOLS
from minifinetuning.lab.paper.reproduction import Reproduction
from minifinetuning.models.config import ModelConfig
from minifinetuning.training.config import ComparisonConfig

# Two steps of two sequences.
SHORT = replace(
    PROTOCOLS["tiny"],
    name="short",
    train_tokens=600,
    validation_tokens=200,
    reference_tokens=600,
    sequence_length=32,
    sequences=2,
    steps=2,
    evaluations=1,
)


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
        return comparison_plan(
            ModelConfig(str(material["model"])),
            DataConfig(**(text | (data or {}))),
            ComparisonConfig(**(settings | changes)),
            methods=methods,
            **own,
        )

    return make


@pytest.fixture
def corpora(tmp_path, sentences):
    """A file for each of the paper's datasets, two called by key and two by domain."""
    folder = tmp_path / "corpora"
    folder.mkdir()
    for seed, name in enumerate(("pubmed", "legal", "openwebmath", "general")):
        rows = [json.dumps({"text": text}) for text in sentences(60, seed)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    return folder


@pytest.fixture
def reproduction(corpora, tmp_path):
    """`reproduction(table=3, …)`: what is asked for of the paper, with the model tiny."""

    def make(protocol=SHORT, folder="results", seed=42, **choice):
        return Reproduction(
            plan_of(**({"model": TINY} | choice)),
            protocol,
            tmp_path / folder,
            other_model=paper_model(TINY),
            corpora=corpora,
            seed=seed,
            bf16=False,
        )

    return make
