"""Outputs that are, hold or lie in what a run reads."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from minifinetuning.errors import InputError
from minifinetuning.training.writable import require_apart, require_cache_apart, require_outside


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("texts/old", "model", "adapter", "base"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "texts" / "a.txt").touch()
    (tmp_path / "run.yaml").touch()
    (tmp_path / "link").symlink_to("model")
    base = json.dumps({"base_model_name_or_path": "base"})
    (tmp_path / "adapter" / "adapter_config.json").write_text(base)
    return tmp_path


@pytest.mark.parametrize(
    ("output", "options", "said"),
    [
        ("model", {"model": "model"}, "--output_dir model is --model model, which"),
        ("model", {"model": "./texts/../link/"}, "is --model"),
        ("link", {"model": "model"}, "is --model"),
        ("link/out", {"model": "model"}, "lies in --model"),
        ("model/a/b", {"tokenizer": "model"}, "lies in --tokenizer"),
        (".", {"reference": "model"}, "holds --reference"),
        (".", {"tuned": "link"}, "holds --tuned"),
        ("texts", {"data": ["texts/a.txt"]}, "holds --data texts/a.txt"),
        ("texts/a.txt", {"general": ["x", "texts/*.txt"]}, r"is --general texts/\*.txt"),
        ("texts/old/out", {"replay": ["texts/*"]}, "lies in --replay"),
        ("texts/new", {"corpora": "texts"}, "lies in --corpora"),
        ("cache", {"teacher_cache": "cache"}, "is --teacher_cache"),
        (".", {"teacher_cache": "cache"}, "holds --teacher_cache"),
        ("base", {"model": "adapter"}, "is the base model base of --model"),
    ],
)
def test_an_output_at_an_input_is_refused(place, output, options, said):
    for each in (options, SimpleNamespace(**options)):
        with pytest.raises(InputError, match=said):
            require_apart(Path(output), each)


def test_outputs_beside_the_inputs_are_fine(place):
    options = {
        "model": "HuggingFaceTB/SmolLM2-135M",
        "data": ["texts"],
        "general": ["texts/*.txt", "self"],
        "replay": None,
        "teacher_cache": "auto",
    }
    require_apart(place / "out", options, place / "run.yaml")
    require_apart(place / "texts-out", options)
    require_apart(place / "texts" / ".." / "new", options)
    options = {"model": "owner/name", "data": ["owner/set"], "teacher_cache": "hidden"}
    require_apart(Path("."), options)
    require_apart(Path("owner/name"), options)


@pytest.mark.parametrize(
    ("cache", "said"),
    [
        ("./model", "--teacher_cache model is --model"),
        ("texts/cache", "lies in --data"),
        (".", "holds --"),
    ],
)
def test_a_cache_lies_apart_from_the_other_inputs(place, cache, said):
    options = SimpleNamespace(teacher_cache=cache)
    inputs = {"model": "model", "data": ["texts"]}
    with pytest.raises(InputError, match=said):
        require_cache_apart(inputs, options)
    require_cache_apart(inputs, SimpleNamespace(teacher_cache="./cache"), place / "run.yaml")
    require_cache_apart(inputs, SimpleNamespace(teacher_cache="hidden"))


def test_the_file_of_options_is_an_input(place):
    with pytest.raises(InputError, match="holds the file of options"):
        require_apart(place, place / "run.yaml")


def test_a_checkpoint_to_go_on_from_may_lie_in_the_output(place):
    checkpoint = place / "model" / "checkpoint-4"
    checkpoint.mkdir()
    require_outside(place / "model", checkpoint)
    for output in (checkpoint, checkpoint / "out"):
        with pytest.raises(InputError, match="--resume_from_checkpoint"):
            require_outside(output, checkpoint)


def test_links_in_a_circle_are_a_path_like_another(place):
    (place / "circle").symlink_to("circle")
    require_apart(place / "circle", {"model": "model"})
    require_apart(place / "out", {"model": "circle"})
