"""Every format of weights comes back as the model that was saved."""

import json
import os
import re

import gguf
import numpy
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from minifinetuning.errors import InputError
from minifinetuning.models import loading
from minifinetuning.models.loading import load_model, load_tokenizer, model_limit


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(1, 30)[None]).logits


def assert_same_weights(got, expected):
    expected = expected.state_dict()
    assert got.state_dict().keys() == expected.keys()
    for name, value in got.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize(("size", "files"), [("1GB", 1), ("40KB", 4)])
def test_safetensors_in_one_file_and_in_many(tmp_path, tiny_model, size, files):
    model = tiny_model("llama")
    model.save_pretrained(tmp_path, max_shard_size=size)
    assert len(list(tmp_path.glob("*.safetensors"))) == files
    loaded = load_model(str(tmp_path))
    assert_same_weights(loaded, model)
    assert torch.equal(logits(loaded), logits(model))


def test_bfloat16_weights_are_held_in_float32_unless_asked_otherwise(tmp_path, tiny_model):
    model = tiny_model("llama").bfloat16()
    model.save_pretrained(tmp_path)
    wide = load_model(str(tmp_path))
    assert wide.dtype == torch.float32
    assert_same_weights(wide, tiny_model("llama").bfloat16().float())
    assert_same_weights(load_model(str(tmp_path), dtype="auto"), model)
    assert load_model(str(tmp_path), dtype="float16").dtype == torch.float16


def test_an_adapter_folder_is_merged_into_its_base(tmp_path, tiny_model):
    base = tmp_path / "base"
    tiny_model("llama").save_pretrained(base)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    model.save_pretrained(tmp_path / "adapter")
    loaded = load_model(str(tmp_path / "adapter"))
    assert not isinstance(loaded, PeftModel)
    assert not any("lora" in name for name, _ in loaded.named_parameters())
    assert (logits(model) - logits(tiny_model("llama"))).abs().max() > 0.1
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-4, atol=1e-4)
    assert model_limit(str(tmp_path / "adapter")) == 128


def test_a_gguf_loads_saves_and_trains(tmp_path, tiny_model, tokenizer, training_arguments):
    model = tiny_model("llama")
    path = tmp_path / "tiny.gguf"
    write_gguf(path, model, tokenizer)
    loaded = load_model(str(path))
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-4, atol=1e-4)
    loaded.save_pretrained(tmp_path / "saved")
    assert_same_weights(load_model(str(tmp_path / "saved")), loaded)
    assert model_limit(str(path)) == 128

    from minifinetuning.training.trainer import MFTTrainer

    data = [{"input_ids": list(range(5, 15))}] * 4
    MFTTrainer(loaded, training_arguments(max_steps=1), train_dataset=data).train()
    assert (logits(loaded) - logits(model)).abs().max() > 1e-3


def write_gguf(path, model, tokenizer):
    """A float32 GGUF of a llama, with the row order of rotary projections that GGUF keeps."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    backend = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(backend["vocab"], key=backend["vocab"].get)
    tokens += [f"<unused {index}>" for index in range(len(tokens), config.vocab_size)]
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(tokens))
    writer.add_token_merges([" ".join(merge) for merge in backend["merges"]])
    writer.add_eos_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, value in model.state_dict().items():
        array = value.float().numpy()
        count = heads.get(name.split(".")[-2])
        if count is not None:
            array = array.reshape(count, 2, -1, array.shape[1]).swapaxes(1, 2)
            array = array.reshape(value.shape)
        gguf_name = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(gguf_name, numpy.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_the_tokenizer_comes_from_the_same_folder(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    text = "the heart risk."
    assert load_tokenizer(str(tmp_path))(text).input_ids == tokenizer(text).input_ids


def refusal(call, *arguments, **options):
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("--")
    return message


@pytest.mark.parametrize("load", [load_model, load_tokenizer, model_limit])
def test_a_place_that_holds_no_model_is_refused(tmp_path, load):
    missing = tmp_path / "nowhere"
    assert f"{missing} does not exist" in refusal(load, str(missing))
    assert "does not exist" in refusal(load, "./nowhere")
    assert "does not exist" in refusal(load, "nowhere.gguf")
    assert "holds no config.json" in refusal(load, str(tmp_path))
    file = tmp_path / "model.safetensors"
    file.touch()
    assert "is a file: give the folder" in refusal(load, str(file))


@pytest.mark.parametrize(
    "content",
    [
        *("{broken", "{}", "[]", '{"model_type": "nothing known"}', '{"model_type": "vit"}'),
        '{"model_type": "openelm", "vocab_size": "many"}',
    ],
)
def test_a_broken_configuration_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert f"--model {tmp_path} cannot be loaded" in refusal(load_model, str(tmp_path))


def test_a_folder_without_weights_or_tokenizer_is_refused(tmp_path, tiny_model):
    tiny_model("llama").config.save_pretrained(tmp_path)
    assert "cannot be loaded" in refusal(load_model, str(tmp_path))
    assert "has no tokenizer" in refusal(load_tokenizer, str(tmp_path))


def test_broken_weights_are_refused(tmp_path, tiny_model):
    tiny_model("llama").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "cannot be loaded" in refusal(load_model, str(tmp_path))


@pytest.mark.parametrize(
    "content",
    [
        "{broken",
        "{}",
        "[]",
        '{"base_model_name_or_path": null}',
    ],
)
def test_a_broken_adapter_configuration_is_refused(tmp_path, content):
    (tmp_path / "adapter_config.json").write_text(content)
    for load in (load_model, model_limit):
        with pytest.raises(InputError, match=re.escape(str(tmp_path))):
            load(str(tmp_path))


def test_an_unknown_dtype_is_refused_before_anything_is_read():
    message = refusal(load_model, "./nowhere", dtype="int3")
    assert "--dtype int3 is not known: choose one of float32" in message


@pytest.mark.parametrize("load", [load_model, load_tokenizer, model_limit])
def test_a_name_that_is_no_utf_8_is_one_sentence(load, tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    os.mkdir(folder)
    with pytest.raises(InputError, match="caf\ufffd: its name holds bytes that are no UTF-8"):
        load(folder)


def test_a_gguf_without_its_reader_names_the_package(monkeypatch, tmp_path):
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'minifinetuning\[gguf\]'"):
        load_model(str(tmp_path / "tiny.gguf"))
