"""A folder of small texts under the paper's names, and reproductions that take seconds."""

import json
from dataclasses import replace

import pytest

from minifinetuning.lab.paper.models import TINY, paper_model
from minifinetuning.lab.paper.plan import plan_of
from minifinetuning.lab.paper.protocol import PROTOCOLS
from minifinetuning.lab.paper.reproduction import Machine, Reproduction

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
            machine=Machine(bf16=False),
        )

    return make
