"""What opens a card is what the hub's own library reads out of it again."""

import json
import math
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData

from minifinetuning.models.origin import _card_on_hub, is_hub_id, origin
from minifinetuning.report import blend_card, model_card, reference_card


@pytest.fixture
def blend_metrics(result):
    configuration = {"model": "/home/ada/runs/adapted", "reference": "an-owner/a-model"}
    return result(
        "blend",
        coefficient=0.6,
        points=[{"coefficient": c, **result()} for c in (0.0, 0.6)],
        configuration=configuration | {"max_degeneralization": None},
    )


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A folder as it lies here, with a card that others wrote."""
    folder = tmp_path / "secret" / "base"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "README.md").write_text(
        "---\nlicense: other\nlicense_name: own-terms\nlicense_link: https://a.example/LICENSE\n"
        "tags: [chat]\n---\n# Base"
    )
    return folder


def data(card):
    """What the hub's library makes of the card, which it would refuse where it is not valid."""
    return ModelCard(card).data


def test_the_figures_are_a_model_index_with_the_documents_of_each(result):
    found = data(model_card(result()))
    assert found.model_name == "an-owner/a-model, mft"
    by_type = {(each.dataset_type, each.metric_type): each for each in found.eval_results}
    assert {key: each.metric_value for key, each in by_type.items()} == {
        ("specialized", "perplexity"): 15.05,
        ("specialized", "specialization"): 6.5,
        ("general", "perplexity"): 15.26,
        ("general", "degeneralization"): 0.4,
    }
    assert all(each.task_type == "text-generation" for each in found.eval_results)
    assert "84 documents" in by_type["specialized", "specialization"].dataset_name
    assert "61 documents" in by_type["general", "perplexity"].dataset_name
    assert "6.50 [5.90, 7.10]" in by_type["specialized", "specialization"].metric_name
    assert "16.10 before" in by_type["specialized", "perplexity"].metric_name


def test_without_general_text_there_is_no_figure_of_it(result):
    found = data(model_card(result(general=False)))
    assert {each.dataset_type for each in found.eval_results} == {"specialized"}


def test_every_card_has_figures_and_a_base(result, blend_metrics):
    reference = {
        "method": "reference",
        "reference": {"general_perplexity": 23.456},
        "tuned": {"general_perplexity": 19.789},
        "validation": {"general": {"documents": 31, "sequences": 40, "tokens": 5000}},
        "step": 90,
        "last_step": 120,
        "data": {"general": {"sources": ["/home/ada/general"], "train_tokens": 1234567}},
        "configuration": {"model": "an-owner/a-model", "learning_rate": 1e-3, "adapter": "lora"},
    }
    blended, prepared = data(blend_card(blend_metrics)), data(reference_card(reference))
    assert blended.base_model == prepared.base_model == "an-owner/a-model"
    assert len(blended.eval_results) == 4
    [figure] = prepared.eval_results
    assert (figure.metric_type, figure.metric_value) == ("perplexity", 19.789)
    assert "31 documents" in figure.dataset_name


def test_an_adapter_has_the_tags_of_pefts_own_cards(result, blend_metrics):
    metrics = result("lora+mft")
    metrics["configuration"] |= {"adapter": "lora"}
    found = data(model_card(metrics))
    assert (found.library_name, found.base_model) == ("peft", "an-owner/a-model")
    expected = {"base_model:adapter:an-owner/a-model", "lora", "transformers", "minifinetuning"}
    assert set(found.tags) == expected
    blend_metrics["configuration"]["adapter"] = "ia3"
    assert set(data(blend_card(blend_metrics)).tags) == expected - {"lora"}


def test_the_licence_of_a_local_base_goes_on_and_its_folder_does_not(result, base):
    metrics = result("lora+mft")
    metrics["configuration"] |= {"model": str(base), "adapter": "lora"}
    card = model_card(metrics)
    found = data(card)
    assert (found.license, found.license_name) == ("other", "own-terms")
    assert found.license_link == "https://a.example/LICENSE"
    assert found.base_model is None
    assert not any(tag.startswith("base_model") for tag in found.tags)
    assert "secret" not in card
    assert "names the base model by its folder on the machine that trained this" in card


def test_the_licence_of_an_adapter_is_that_of_its_base(base, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    found = origin(str(adapter))
    assert found.licence["license_name"] == "own-terms"
    assert found.architecture == "llama"


@pytest.fixture
def hub(monkeypatch):
    """`hub(answer)`: the hub answers with this card, or raises this error; what it was asked."""
    asked = []

    def set_answer(answer):
        def model_info(self, name, timeout):
            asked.append((name, timeout))
            if isinstance(answer, Exception):
                raise answer
            return SimpleNamespace(card_data=answer)

        monkeypatch.setattr("minifinetuning.models.origin.HfApi.model_info", model_info)
        _card_on_hub.cache_clear()
        return asked

    yield set_answer
    _card_on_hub.cache_clear()


def test_the_licence_of_a_model_of_the_hub_is_that_of_its_card_there(result, hub):
    asked = hub(ModelCardData(license="other", license_link="LICENSE"))
    found = data(model_card(result()))
    assert found.license_link == "https://huggingface.co/an-owner/a-model/blob/main/LICENSE"
    assert asked == [("an-owner/a-model", 5)]


def test_a_card_is_made_where_there_is_no_network(result, hub):
    asked = hub(TimeoutError("nobody there"))
    assert data(model_card(result())).license is None
    assert len(asked) == 1


NOTHING_SAID = ["", "# No front matter", "---\n- [\n---\n", "---\nlicense: 3\n---"]


@pytest.mark.parametrize("text", NOTHING_SAID)
def test_a_base_whose_card_says_nothing_gives_no_licence(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    (tmp_path / "config.json").write_text("broken")
    found = origin(str(tmp_path))
    assert (found.hub_id, found.licence, found.architecture) == (None, {}, None)


def test_what_is_on_the_hub_and_what_is_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()
    assert is_hub_id("owner/name")
    assert is_hub_id("distilgpt2")
    assert not any(map(is_hub_id, ("gpt2", "./owner/name", "/owner/name", "~/name", "a/b/c")))


def test_openelm_says_the_import_that_it_needs(result, base):
    metrics = result()
    metrics["configuration"]["model"] = str(base)
    assert "import minifinetuning.models.openelm" not in model_card(metrics)
    (base / "config.json").write_text('{"model_type": "openelm"}')
    assert "\nimport minifinetuning.models.openelm" in model_card(metrics)


def test_an_interval_without_a_bound_is_still_yaml(result):
    metrics = result()
    metrics["intervals"]["degeneralization"] = [0.1, None]
    metrics["degeneralization"] = math.pi
    front = yaml.safe_load(model_card(metrics).split("---\n")[1])
    assert front["model-index"][0]["results"][1]["metrics"][1]["value"] == math.pi
