"""The demo on a tiny model and texts in the place of what it fetches."""

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from minifinetuning.errors import InputError
from minifinetuning.lab.demo import run as demo


@pytest.fixture
def tiny_demo(
    tmp_path: Path,
    llama: Any,
    tokenizer: Any,
    sentences: Callable[[int, int], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The folder of the model that stands in for SmolLM2."""
    model = tmp_path / "model"
    llama.save_pretrained(model)
    tokenizer.save_pretrained(model)
    for name, seed in (("medline", 1), ("wikipedia", 2)):
        rows = [json.dumps({"text": text, "source": name}) for text in sentences(60, seed)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    monkeypatch.setattr(demo, "medline_texts", lambda _: tmp_path / "medline.jsonl")
    monkeypatch.setattr(demo, "unseen_wikipedia_texts", lambda _: tmp_path / "wikipedia.jsonl")
    monkeypatch.setattr(demo, "converted_model", lambda cache: model)
    monkeypatch.setattr(demo, "shipped_reference", lambda base, cache: base)
    monkeypatch.setattr(demo, "SEQUENCE_LENGTH", 64)
    return model


@pytest.mark.filterwarnings("default")
def test_demo_compares_both_methods_and_leaves_its_results(
    tiny_demo: Path, tmp_path: Path, capsys: Any
) -> None:
    output = tmp_path / "out"
    results = demo.run_demo(output, steps=4)
    assert list(results) == ["ft", "mft"]
    assert results["ft"]["reference"] == results["mft"]["reference"]
    same = [
        {k: v for k, v in result["configuration"].items() if k not in ("objective", "output_dir")}
        for result in results.values()
    ]
    assert same[0] == same[1]
    for name in results:
        AutoModelForCausalLM.from_pretrained(output / name)
        assert not list((output / name).glob("checkpoint-*"))
    assert (output / "frontier.png").read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    for words in ("| mft", "| ft", "DG/S", "the document itself", "frontier.png"):
        assert words in shown
    assert "This machine takes" in shown
    written = (output / "results.md").read_text()
    assert "| mft" in written
    assert "Trained 4 steps of 128 tokens, " in written
    assert "documents of general text" in written


@pytest.mark.filterwarnings("default")
def test_demo_on_ones_own_documents_and_model(
    tiny_demo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sentences: Callable[[int, int], list[str]],
) -> None:
    def never(*_: object) -> Path:
        raise AssertionError("nothing of the demo's own is needed")

    monkeypatch.setattr(demo, "medline_texts", never)
    monkeypatch.setattr(demo, "converted_model", never)
    own = tmp_path / "own"
    own.mkdir()
    for number, text in enumerate(sentences(40, 3)):
        (own / f"{number}.md").write_text(text)
    results = demo.run_demo(tmp_path / "out", data=[str(own)], model=str(tiny_demo), steps=4)
    assert results["mft"]["data"]["specialized"]["documents"] == 40


def test_too_few_steps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--steps"):
        demo.run_demo(tmp_path, steps=3)


def test_shipped_adapter_fits_the_model_that_it_is_for() -> None:
    folder = files("minifinetuning.lab.demo") / "reference"
    config = json.loads((folder / "adapter_config.json").read_text())
    weights = load_file(str(folder / "adapter_model.safetensors"))
    # SmolLM2-135M: 30 layers, width 576, MLP width 1536, 3 key-value heads of 64.
    widths = {"q_proj": (576, 576), "k_proj": (576, 192), "v_proj": (576, 192)}
    widths |= {"o_proj": (576, 576), "gate_proj": (576, 1536), "up_proj": (576, 1536)}
    widths["down_proj"] = (1536, 576)
    assert sorted(widths) == config["target_modules"]
    assert len(weights) == 30 * len(widths) * 2
    for name, weight in weights.items():
        inner, outer = widths[name.split(".")[-3]]
        shape = (config["r"], inner) if "lora_A" in name else (outer, config["r"])
        assert weight.shape == shape
    assert not any(weight.isnan().any() for weight in weights.values())
    assert any(weight.any() for name, weight in weights.items() if "lora_B" in name)


@pytest.mark.parametrize(
    ("taken", "said"),
    [("results.md", r"holds results\.md, which no run wrote"), ("ft", "holds ft, which no run")],
)
def test_files_of_the_user_are_not_replaced(
    tiny_demo: Path, tmp_path: Path, taken: str, said: str
) -> None:
    (tmp_path / "mine" / taken).mkdir(parents=True)
    with pytest.raises(InputError, match=said):
        demo.run_demo(tmp_path / "mine", steps=4)
    with pytest.raises(InputError, match="holds --model"):
        demo.run_demo(tmp_path, steps=4, model=str(tiny_demo))
    assert list((tmp_path / "mine").iterdir()) == [tmp_path / "mine" / taken]
