"""What is saved comes back as it was, and other programs read it as it is meant."""

import ast
import copy
import dataclasses
import json
import logging
import os
import runpy
import subprocess
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaTokenizer,
)

from minifinetuning.models import saving
from minifinetuning.models.loading import load_model
from minifinetuning.models.saving import repair_generation_config, save_model, save_tokenizer

FAMILIES = runpy.run_path(str(Path(__file__).with_name("families.py")))["FAMILIES"]
LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def written(folder, name="config.json"):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(1, 30)[None]).logits


@pytest.fixture
def warnings_of_saving(caplog):
    caplog.set_level(logging.WARNING, logger="minifinetuning")
    return lambda: [record.getMessage() for record in caplog.records if "minif" in record.name]


@pytest.mark.parametrize(
    ("settings", "unset"),
    [
        ({"temperature": 0.9, "top_p": 0.5}, ["temperature", "top_p"]),
        ({"length_penalty": 2.0, "output_scores": True}, ["length_penalty", "output_scores"]),
    ],
)
def test_generation_settings_without_effect_are_unset_with_a_warning(
    tmp_path, tiny_model, warnings_of_saving, settings, unset
):
    model = tiny_model("llama")
    model.generation_config.update(do_sample=False, max_new_tokens=7, eos_token_id=3, **settings)
    with pytest.raises(ValueError, match="GenerationConfig is invalid"):
        model.save_pretrained(tmp_path / "plain")
    save_model(model, tmp_path / "ours")
    found = written(tmp_path / "ours", "generation_config.json")
    assert not found.keys() & set(unset)
    assert (found["max_new_tokens"], found["eos_token_id"]) == (7, 3)
    [warning] = warnings_of_saving()
    assert ", ".join(unset) in warning
    save_model(model, tmp_path / "again")
    assert len(warnings_of_saving()) == 1


def test_of_generation_settings_that_contradict_each_other_the_token_ids_are_kept(
    tmp_path, tiny_model, warnings_of_saving
):
    model = tiny_model("llama")
    for name, value in {"num_return_sequences": 3, "eos_token_id": 3, "pad_token_id": 5}.items():
        setattr(model.generation_config, name, value)
    save_model(model, tmp_path)
    found = written(tmp_path, "generation_config.json")
    assert (found["eos_token_id"], found["pad_token_id"]) == (3, 5)
    assert "num_return_sequences" not in found
    assert "only its token ids were kept" in warnings_of_saving()[0]


def test_generation_settings_that_can_be_saved_stay(tiny_model, warnings_of_saving):
    model = tiny_model("llama")
    model.generation_config = GenerationConfig(do_sample=True, temperature=0.6, top_k=20)
    before = model.generation_config.to_dict()
    repair_generation_config(model)
    assert model.generation_config.to_dict() == before
    assert not warnings_of_saving()


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_5_reads_what_was_saved_as_it_was(tmp_path, name):
    model = FAMILIES[name].model()
    model.save_pretrained(tmp_path / "plain")
    save_model(model, tmp_path / "ours")
    plain, ours = (
        AutoConfig.from_pretrained(tmp_path / each).to_dict() for each in ("plain", "ours")
    )
    assert {**ours, "_name_or_path": ""} == {**plain, "_name_or_path": ""}
    assert torch.equal(logits(load_model(str(tmp_path / "ours"))), logits(model))


def test_rotary_settings_stand_beside_by_the_names_of_transformers_4(tmp_path, tiny_model):
    save_model(tiny_model("llama", rope_parameters={**LLAMA_3, "rope_theta": 5e5}), tmp_path)
    found = written(tmp_path)
    assert found["rope_theta"] == 5e5
    assert found["rope_scaling"] == LLAMA_3
    assert found["rope_parameters"] == {**LLAMA_3, "rope_theta": 5e5}
    save_model(tiny_model("llama"), tmp_path / "plain")
    found = written(tmp_path / "plain")
    assert (found["rope_theta"], found["rope_scaling"]) == (1e4, None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "Gemma 3",
            {
                "rope_theta": 1e6,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
                "rope_local_base_freq": 500.0,
            },
        ),
        ("Phi", {"rope_theta": 1e4, "rope_scaling": None, "partial_rotary_factor": 0.5}),
        ("GPT-NeoX", {"rotary_emb_base": 1e4, "rope_scaling": None, "rotary_pct": 0.25}),
    ],
)
def test_families_with_names_of_their_own_for_rotary_settings(tmp_path, name, expected):
    save_model(FAMILIES[name].model(), tmp_path)
    found = written(tmp_path)
    assert {key: found.get(key, "missing") for key in expected} == expected


def test_phi_3_has_its_scaling_in_the_only_form_that_its_older_class_takes(tmp_path):
    factors = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0]}
    rope = {"rope_type": "longrope", "rope_theta": 5e4, **factors}
    shared = {"rope_parameters": rope, "original_max_position_embeddings": 16}
    # Nothing else of a llama is different in this.
    model = dataclasses.replace(FAMILIES["Llama 2"], kind="phi3").model(**shared)
    save_model(model, tmp_path)
    found = written(tmp_path)
    assert found["rope_scaling"] == {"type": "longrope", **factors}
    assert torch.equal(logits(load_model(str(tmp_path))), logits(model))


@pytest.mark.parametrize("scaling", [{"rope_type": "linear", "factor": 9.0}, "of no kind"])
def test_what_would_change_the_model_in_transformers_5_is_left_out(
    tmp_path, tiny_model, monkeypatch, scaling
):
    model = tiny_model("llama")
    model.save_pretrained(tmp_path / "plain")
    monkeypatch.setattr(
        "minifinetuning.models.compatibility.rope_for_transformers_4",
        lambda settings: {"rope_scaling": scaling},
    )
    save_model(model, tmp_path / "ours")
    assert written(tmp_path / "ours") == written(tmp_path / "plain")


def test_a_model_inside_another_has_them_too(tmp_path):
    save_model(FAMILIES["Gemma 3 with vision"].model(), tmp_path)
    assert written(tmp_path)["text_config"]["rope_local_base_freq"] == 1e4


def test_a_tokenizer_is_called_what_other_programs_know(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path / "first")
    (tmp_path / "first" / "config.json").write_text('{"model_type": "llama"}')
    loaded = AutoTokenizer.from_pretrained(tmp_path / "first")
    loaded.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    save_tokenizer(loaded, tmp_path)
    found = written(tmp_path, "tokenizer_config.json")
    assert found["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert found["model_input_names"] == ["input_ids", "attention_mask"]
    assert found["additional_special_tokens"] == ["<turn>"]
    assert not found.keys() & {"is_local", "local_files_only", "extra_special_tokens"}
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "the heart <turn> risk"
    assert again(text).input_ids == loaded(text).input_ids
    assert again.extra_special_tokens == ["<turn>"]
    assert again.all_special_ids == loaded.all_special_ids


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("eos", [False, True])
def test_what_opens_and_closes_a_text_is_said_where_transformers_4_would_add_bos(
    tmp_path, bos, eos
):
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, "▁": 3, "a": 4, "▁a": 5}
    options = {"vocab": vocabulary, "merges": [("▁", "a")]}
    saved = LlamaTokenizer(**options, add_bos_token=bos, add_eos_token=eos)
    save_tokenizer(saved, tmp_path)
    found = written(tmp_path, "tokenizer_config.json")
    said = {name: found[name] for name in ("add_bos_token", "add_eos_token") if name in found}
    assert said == ({} if bos and not eos else {"add_bos_token": bos, "add_eos_token": eos})
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again("a").input_ids == [1] * bos + [5] + [2] * eos == saved("a").input_ids


def test_weights_are_written_in_the_dtype_asked_for(tmp_path, tiny_model):
    model = tiny_model("llama", tie_word_embeddings=True)
    save_model(model, tmp_path, dtype=torch.bfloat16)
    assert written(tmp_path)["dtype"] == "bfloat16"
    tensors = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert "lm_head.weight" not in tensors
    assert model.dtype == torch.float32
    loaded = load_model(str(tmp_path)).state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded[name], value.bfloat16().float()), name


def test_an_adapter_names_the_folder_of_its_base_from_anywhere(tmp_path, tiny_model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_model("llama").save_pretrained("base")
    base = AutoModelForCausalLM.from_pretrained("base")
    adapted = get_peft_model(base, LoraConfig(r=2, task_type="CAUSAL_LM"))
    save_model(adapted, Path("adapter"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert written(tmp_path / "adapter", "adapter_config.json")["base_model_name_or_path"] == str(
        tmp_path / "base"
    )
    assert torch.equal(logits(load_model("../adapter")), logits(adapted))


def test_no_card_that_peft_writes_takes_the_place_of_another(tmp_path, tiny_model):
    base = tiny_model("llama")
    base.save_pretrained(tmp_path / "base")
    base.name_or_path = str(tmp_path / "base")
    adapted = get_peft_model(base, LoraConfig(r=2, task_type="CAUSAL_LM"))
    save_model(adapted, tmp_path)
    assert not (tmp_path / "README.md").exists()
    (tmp_path / "README.md").write_text("# Mine\n")
    save_model(adapted, tmp_path)
    assert (tmp_path / "README.md").read_text() == "# Mine\n"


def test_an_adapter_names_a_model_of_the_hub_as_it_is(tmp_path, tiny_model, monkeypatch):
    base = tiny_model("llama")
    base.name_or_path = "owner/model"
    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", lambda *_: False)
    save_model(get_peft_model(base, LoraConfig(r=2, task_type="CAUSAL_LM")), tmp_path)
    found = written(tmp_path, "adapter_config.json")
    assert found["base_model_name_or_path"] == "owner/model"


OLDER_PYTHON = os.environ.get("MINIFINETUNING_TRANSFORMERS_4_PYTHON")
READ_BY_4 = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
tokens = torch.tensor([AutoTokenizer.from_pretrained(sys.argv[1])(sys.argv[2]).input_ids])
with torch.no_grad():
    torch.save((tokens, model(tokens).logits), sys.argv[3])
"""


@pytest.mark.skipif(
    OLDER_PYTHON is None,
    reason="MINIFINETUNING_TRANSFORMERS_4_PYTHON names no Python with transformers 4.57",
)
@pytest.mark.parametrize("rope", [{"rope_type": "default"}, LLAMA_3], ids=["default", "llama3"])
def test_transformers_4_computes_the_same_logits(tmp_path, tiny_model, tokenizer, rope):
    model = tiny_model("llama", rope_parameters={**rope, "rope_theta": 1e5})
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    save_model(model, tmp_path, tokenizer)
    text = "the heart risk of patient treated after weeks " * 2
    result = tmp_path / "logits.pt"
    subprocess.run(
        [str(OLDER_PYTHON), "-c", READ_BY_4, str(tmp_path), text, str(result)],
        check=True,
        capture_output=True,
        env={"PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1"},
    )
    tokens, got = torch.load(result)
    assert tokens[0].tolist() == tokenizer(text).input_ids
    with torch.no_grad():
        expected = model.eval()(tokens).logits
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


def test_models_are_saved_by_one_function():
    """Nothing else calls save_pretrained: what it repairs and adds, every path that saves has."""
    source = Path(saving.__file__).parents[1]
    callers = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Attribute) and call.attr == "save_pretrained"
    }
    # A random model that is only loaded again at once.
    assert callers - {"lab/paper/models.py"} == {"models/saving.py"}
