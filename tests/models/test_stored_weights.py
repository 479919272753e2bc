"""Weights on disk come back one by one, under the names that their model gives them."""

import json
import os

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from minifinetuning.errors import InputError
from minifinetuning.models.stored_weights import StoredWeights, model_folder, stored_names


@pytest.mark.parametrize(("size", "files"), [("1GB", 1), ("40KB", 4)])
def test_every_tensor_is_read_by_its_name(tmp_path, tiny_model, size, files):
    model = tiny_model("llama")
    model.save_pretrained(tmp_path, max_shard_size=size)
    assert len(list(tmp_path.glob("*.safetensors"))) == files
    stored = StoredWeights(tmp_path)
    expected = model.state_dict()
    assert len(stored) == len(expected)
    for name, tensor in stored.items():
        assert torch.equal(tensor, expected[name])
        assert stored.shapes[name] == tuple(tensor.shape)


def test_what_was_read_may_be_changed(tmp_path):
    save_file({"a": torch.ones(4)}, tmp_path / "model.safetensors")
    stored = StoredWeights(tmp_path)
    stored["a"].zero_()
    assert torch.equal(stored["a"], torch.ones(4))


@pytest.mark.parametrize(
    ("dtypes", "widest"),
    [
        ([torch.bfloat16], torch.bfloat16),
        ([torch.bfloat16, torch.float32], torch.float32),
        ([torch.bfloat16, torch.float16], torch.float32),
        ([torch.float16, torch.int64], torch.float16),
    ],
)
def test_the_dtype_holds_every_float_of_the_files(tmp_path, dtypes, widest):
    tensors = {str(dtype): torch.ones(2, dtype=dtype) for dtype in dtypes}
    save_file(tensors, tmp_path / "model.safetensors")
    assert StoredWeights(tmp_path).dtype == widest


def test_floats_that_need_scales_or_more_than_float32_are_refused(tmp_path):
    save_file({"a": torch.ones(2, dtype=torch.float64)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"holds weights in F64: save them in float32"):
        StoredWeights(tmp_path)


def test_folders_without_whole_safetensors_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no model\.safetensors: save the model as"):
        StoredWeights(tmp_path)
    with pytest.raises(InputError, match=r"holds no adapter_model\.safetensors"):
        StoredWeights(tmp_path, "adapter_model")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text("{}")
    with pytest.raises(InputError, match=r"is no index of safetensors"):
        StoredWeights(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    with pytest.raises(InputError, match=r"model-1\.safetensors cannot be read"):
        StoredWeights(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match=r"model\.safetensors cannot be read"):
        StoredWeights(tmp_path)


def loaded(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    return model, stored_names(model, StoredWeights(folder))


def assert_named_rightly(folder, model, names):
    stored, places = StoredWeights(folder), model.state_dict()
    assert {id(place) for place in dict(model.named_parameters()).values()} == {
        id(model.get_parameter(name)) for name in names
    }
    assert all(torch.equal(places[name], stored[key]) for name, key in names.items())


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gemma2", "phi"])
def test_each_weight_of_a_model_is_found_once(tmp_path, tiny_model, family):
    tiny_model(family).save_pretrained(tmp_path)
    assert_named_rightly(tmp_path, *loaded(tmp_path))


def renamed(folder, change):
    tensors = {change(name): tensor for name, tensor in load_file(folder).items()}
    save_file(tensors, folder, metadata={"format": "pt"})


def test_names_without_the_prefix_of_the_decoder_are_known(tmp_path, tiny_model):
    tiny_model("gpt2").save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    renamed(file, lambda name: name.removeprefix("transformer."))
    tensors = load_file(file) | {"h.0.attn.bias": torch.ones(1, 1, 128, 128).tril()}
    save_file(tensors, file, metadata={"format": "pt"})
    model, names = loaded(tmp_path)
    assert names["transformer.wte.weight"] == "wte.weight"
    assert_named_rightly(tmp_path, model, names)


def test_names_that_transformers_has_changed_are_known(tmp_path):
    settings = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        "gpt_neox", vocab_size=64, intermediate_size=32, eos_token_id=0, **settings
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    renamed(tmp_path / "model.safetensors", lambda name: name.replace("lm_head", "embed_out"))
    model, names = loaded(tmp_path)
    assert names["lm_head.weight"] == "embed_out.weight"
    assert_named_rightly(tmp_path, model, names)


def test_a_tied_head_may_be_stored_twice_but_not_differently(tmp_path, tiny_model):
    model = tiny_model("llama", tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    head = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors | {"lm_head.weight": head}, file, metadata={"format": "pt"})
    assert_named_rightly(tmp_path, *loaded(tmp_path))
    save_file(tensors | {"lm_head.weight": head + 1}, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match="with different values, yet its model ties them"):
        stored_names(model, StoredWeights(tmp_path))


def test_weights_of_another_model_are_refused(tmp_path, tiny_model):
    tiny_model("llama").save_pretrained(tmp_path)
    stored = StoredWeights(tmp_path)
    with pytest.raises(InputError, match=r"embed_tokens\..*, which OPTForCausalLM does not have"):
        stored_names(tiny_model("opt"), stored)
    with pytest.raises(InputError, match="in the shape"):
        stored_names(tiny_model("llama", intermediate_size=48), stored)
    with pytest.raises(InputError, match=r"lacks model\.layers\.2\."):
        stored_names(tiny_model("llama", num_hidden_layers=3), stored)


def test_experts_that_loading_fuses_are_refused(tmp_path, tiny_model):
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    config = AutoConfig.for_model(
        "mixtral", vocab_size=64, num_attention_heads=2, num_key_value_heads=2, **shape
    )
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="only a part of a weight of MixtralForCausalLM"):
        stored_names(model, StoredWeights(tmp_path))


def test_a_hub_id_is_its_cached_snapshot(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--ada--tiny"
    snapshot = repository / "snapshots" / ("0" * 40)
    tiny_model("llama").save_pretrained(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    assert os.path.samefile(model_folder("ada/tiny"), snapshot)
    with pytest.raises(InputError, match="ada/other is no model folder, and no model of the hub"):
        model_folder("ada/other")


def test_what_is_no_folder_is_refused(tmp_path):
    assert model_folder(str(tmp_path)) == tmp_path
    with pytest.raises(InputError, match=r"is a GGUF.*save it as safetensors first"):
        model_folder(str(tmp_path / "tiny.gguf"))
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(InputError, match="is a file: give the folder"):
        model_folder(str(file))
    with pytest.raises(InputError, match="/no/such/model is no model folder"):
        model_folder("/no/such/model")
