import ast
import re
from typing import Any

import pytest
import yaml

from minifinetuning.report import blend_card, blend_table, model_card, reference_card

REFERENCE = {
    "method": "reference",
    "reference": {"general_perplexity": 23.456},
    "tuned": {"general_perplexity": 19.789},
    "step": 90,
    "last_step": 120,
    "data": {
        "general": {
            "sources": ["/home/someone/general"],
            "train_tokens": 1234567,
        }
    },
    "validation": {"general": {"documents": 37, "sequences": 10, "tokens": 4980}},
    "configuration": {"model": "/home/someone/model", "learning_rate": 1e-3, "adapter": "lora"},
}


def front_matter(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def code(card: str) -> str:
    block = re.search(r"```python\n(.*?)```", card, re.S)
    return block[1]


def test_a_full_model_of_the_hub(result):
    card = model_card(result())

    front = front_matter(card)
    assert front.pop("model-index")
    assert front == {
        "library_name": "transformers",
        "base_model": "an-owner/a-model",
        "pipeline_tag": "text-generation",
        "tags": ["minifinetuning"],
    }
    assert "S = 6.50 [5.90, 7.10] %" in card
    assert "DG = 0.40 [0.10, 0.70] %" in card
    assert "DG/S = 0.061 [0.015, 0.125]" in card
    assert "τ = 0.25" in card
    assert "14,688" in card
    assert "PeftModel" not in card
    assert len(ast.parse(code(card)).body) == 3


def test_an_adapter_on_a_local_model(result):
    metrics = result("lora+mft")
    metrics["configuration"] |= {"adapter": "lora", "rank": 8, "model": "/home/ada/models/base"}

    card = model_card(metrics)

    assert front_matter(card)["library_name"] == "peft"
    assert "base_model" not in front_matter(card)
    assert "PeftModel.from_pretrained" in code(card)
    assert len(ast.parse(code(card)).body) == 5


@pytest.mark.parametrize("general", [True, False])
def test_folders_are_never_told(result, general):
    metrics = result(general=general)
    metrics["configuration"]["texts"] = ["C:\\Users\\ada\\notes.txt", "/home/ada/more.txt"]

    card = model_card(metrics)

    assert "ada" not in card.replace("adapt", "")
    for name in ("medline.jsonl", "first", "notes.txt, more.txt"):
        assert name in card


def test_a_folder_that_looks_like_a_hub_id_is_a_folder(result, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "an-owner" / "a-model").mkdir(parents=True)

    assert "base_model" not in front_matter(model_card(result()))


def test_what_was_measured_and_trained_on_too_is_said(result):
    metrics = result()
    card = model_card(metrics)
    assert "never trained on" not in card
    assert "Forgetting was measured on documents held out of training." in card
    metrics["data"]["general"]["trained_run_share"] = 0.917
    metrics["data"]["specialized"]["trained_run_share"] = 0.031
    card = model_card(metrics)
    for share in ("91.7", "3.1"):
        assert f"training; {share} % of their runs of 24 tokens stand in the training text." in card


def test_without_general_text_forgetting_was_watched_by_the_divergence(result):
    card = model_card(result(general=False))

    assert "DG" not in card
    assert "KL(p_T‖p_S) = 0.031 nats" in card


@pytest.mark.parametrize(
    ("objective", "words", "has_tau"),
    [
        ("ft", "plain finetuning", False),
        ("single_correction", "single correction", True),
        ("distillation", "distillation from", False),
        ("corrective", "corrective finetuning", False),
    ],
)
def test_the_method_is_told_in_words(result, objective, words, has_tau):
    paragraph = next(
        line for line in model_card(result(objective)).splitlines() if "adapted" in line
    )

    assert words in paragraph
    assert ("τ = 0.25" in paragraph) == has_tau


@pytest.fixture
def blend(result: Any) -> dict[str, Any]:
    """The content of the metrics.json of a blend that was kept at c = 0.6."""
    points = [
        {"coefficient": c, **result(specialization=10 * c, degeneralization=c)}
        for c in (0.0, 0.6, 1.0)
    ]
    return {
        **points[1],
        "points": points,
        "configuration": {
            "model": "/home/ada/runs/adapted",
            "reference": "an-owner/a-model",
            "max_degeneralization": 1.5,
        },
    }


def test_the_table_has_a_row_for_each_point_and_marks_the_one_kept(blend: dict[str, Any]) -> None:
    names = [line.split("|")[1].strip() for line in blend_table(blend).splitlines()[2:-2]]
    assert names == ["reference", "c = 0.6 (kept)", "c = 1"]


def test_the_card_says_what_was_blended_and_names_no_folder_of_its_author(
    blend: dict[str, Any],
) -> None:
    card = blend_card(blend)
    assert "# adapted, blended with an-owner/a-model" in card
    assert "**c = 0.6**" in card
    assert "DG of at most 1.5 %" in card
    assert "library_name: transformers" in card
    assert "/home" not in card
    blend["configuration"]["max_degeneralization"] = None
    assert "DG of at most" not in blend_card(blend)


def test_the_card_of_an_adapter_says_what_it_is_loaded_on(blend: dict[str, Any]) -> None:
    blend["configuration"]["adapter"] = "lora"
    assert 'AutoModelForCausalLM.from_pretrained("an-owner/a-model")' in blend_card(blend)
    assert "library_name: peft" in blend_card(blend)
    blend["configuration"]["reference"] = "/home/ada/base"
    assert 'AutoModelForCausalLM.from_pretrained("path/to/base")' in blend_card(blend)


def test_the_card_of_a_reference_says_what_was_done_and_names_no_folder() -> None:
    card = reference_card(REFERENCE)
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "transformers"
    said = "23.46", "19.79", "step 90 of 120", "1,234,567", "37 documents", "0.001", "general"
    assert all(words in text for words in said)
    assert "/home" not in card
