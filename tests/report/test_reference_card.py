import yaml

from minifinetuning.report import reference_card

METRICS = {
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


def test_card_says_what_was_done_and_names_no_folder() -> None:
    card = reference_card(METRICS)
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "transformers"
    said = "23.46", "19.79", "step 90 of 120", "1,234,567", "37 documents", "0.001", "general"
    assert all(words in text for words in said)
    assert "/home" not in card
