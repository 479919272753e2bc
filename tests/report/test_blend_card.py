from typing import Any

import pytest

from minifinetuning.report.blend_card import blend_card, blend_table


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
