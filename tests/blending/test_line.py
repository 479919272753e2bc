"""Weights between two models are those of a plain loop, at 0 and 1 to the bit, one at a time."""

import gc
import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from minifinetuning.blending.line import open_blend
from minifinetuning.blending.weight_line import interpolated
from minifinetuning.errors import InputError
from minifinetuning.models.config import ModelConfig

TOKENS = torch.arange(1, 30)[None]


@pytest.fixture
def saved(tmp_path, tokenizer):
    """`saved(model, name, dtype)`: the folder of a checkpoint with its tokenizer."""

    def save(model, name, dtype=torch.float32, **options):
        folder = tmp_path / name
        deepcopy(model).to(dtype).save_pretrained(folder, **options)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return save


def changed(model, seed=1):
    """A copy whose every weight is a little off."""
    torch.manual_seed(seed)
    other = deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return other


def plain(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=TOKENS).logits


def assert_same_weights(model, expected):
    expected = expected.state_dict()
    assert model.state_dict().keys() == expected.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name].to(value.dtype)), name


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gemma2", "phi"])
def test_a_blend_is_the_interpolation_of_every_weight(saved, tiny_model, family):
    reference = tiny_model(family)
    tuned = changed(reference)
    blend = open_blend(ModelConfig(saved(reference, "a")), saved(tuned, "b"))
    model = blend.load()
    start, end = reference.state_dict(), tuned.state_dict()
    for c in (0.3, 0.75):
        blend.apply(model, c)
        for name, value in model.state_dict().items():
            expected = start[name].double() + c * (end[name].double() - start[name].double())
            torch.testing.assert_close(value.double(), expected, rtol=0, atol=3e-7)


def test_a_tied_head_follows_its_embeddings(saved, tiny_model):
    reference = tiny_model("llama", tie_word_embeddings=True)
    blend = open_blend(saved(reference, "a"), saved(changed(reference), "b"))
    model = blend.load()
    blend.apply(model, 0.5)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert (model.lm_head.weight - reference.lm_head.weight).abs().max() > 0.01


@pytest.mark.parametrize(
    ("reference_dtype", "tuned_dtype", "dtype"),
    [
        (torch.float32, torch.float32, torch.float32),
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.bfloat16, torch.float16, torch.float32),
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
    ],
)
def test_the_ends_are_the_two_checkpoints_to_the_bit(
    saved, tiny_model, reference_dtype, tuned_dtype, dtype
):
    reference = tiny_model("llama")
    start = saved(reference, "a", reference_dtype)
    end = saved(changed(reference), "b", tuned_dtype, max_shard_size="40KB")
    assert len(list(Path(end).glob("*.safetensors"))) > 1
    blend = open_blend(ModelConfig(start), end)
    model = blend.load()
    assert (model.dtype, blend.dtype) == (torch.float32, dtype)
    assert_same_weights(model, plain(start))
    for c, folder in ((1, end), (0.4, None), (0, start), (1, end)):
        blend.apply(model, c)
        if folder:
            assert_same_weights(model, plain(folder))
    assert logits(model).isfinite().all()


def test_bfloat16_is_interpolated_in_float32(saved, tiny_model):
    reference = tiny_model("llama")
    start = saved(reference, "a", torch.bfloat16)
    end = saved(changed(reference), "b", torch.bfloat16)
    blend = open_blend(ModelConfig(start), end)
    model = blend.load()
    blend.apply(model, 0.3)
    before, after = plain(start).state_dict(), plain(end).state_dict()
    for name, value in model.state_dict().items():
        expected = before[name].double() + 0.3 * (after[name].double() - before[name].double())
        half_a_step = 2**-8 * expected.abs() + 1e-7
        assert ((value.double() - expected).abs() <= half_a_step).all()


def test_what_tuning_left_alone_stays_to_the_bit():
    torch.manual_seed(0)
    weight = torch.randn(1000)
    assert torch.equal(interpolated(weight, weight.clone(), 0.37), weight)


ADAPTERS = {
    "lora": LoraConfig(r=4, lora_alpha=9, target_modules=["q_proj", "down_proj"]),
    "lora, scaled by rank": LoraConfig(
        r=4,
        use_rslora=True,
        rank_pattern={"down_proj": 2},
        alpha_pattern={"q_proj": 3},
        target_modules=["q_proj", "down_proj"],
    ),
    "lora with a bias": LoraConfig(r=4, lora_bias=True, target_modules=["fc1", "k_proj"]),
    "ia3": IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "ia3 on biases": IA3Config(target_modules=["k_proj", "fc2"], feedforward_modules=["fc2"]),
}


def adapted(base, config, folder, tokenizer, dtype=torch.float32):
    """The folder of an adapter with weights far from those that change nothing."""
    config = deepcopy(config)
    config.task_type = "CAUSAL_LM"
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "ia3_" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.filterwarnings("ignore:Adapter 'default'.* invalid shape")  # PEFT of its own biases
@pytest.mark.parametrize("kind", ADAPTERS)
def test_a_scaled_adapter_is_the_interpolation_of_the_merged_weights(
    tmp_path, saved, tiny_model, tokenizer, kind
):
    biased = kind in ("lora with a bias", "ia3 on biases")
    base = saved(tiny_model("opt" if biased else "llama"), "base")
    folder = adapted(base, ADAPTERS[kind], tmp_path / "adapter", tokenizer)
    merged = PeftModel.from_pretrained(plain(base).double(), folder).merge_and_unload().double()
    blend = open_blend(ModelConfig(base), folder)
    model = blend.load()
    assert torch.equal(logits(model), logits(plain(base)))
    distance = (logits(merged) - logits(plain(base))).abs().max()
    assert distance > 0.5
    for c in (0.25, 0.7, 1.0):
        expected = plain(base).double()
        with torch.no_grad():
            for weight, end in zip(expected.parameters(), merged.parameters(), strict=True):
                weight.add_(c * (end - weight))
        blend.apply(model, c)
        scaled = deepcopy(model).double()
        torch.testing.assert_close(logits(scaled), logits(expected), rtol=0, atol=2e-5)
    stored = load_file(Path(folder) / "adapter_model.safetensors")
    kept = {name.replace(".default", ""): value for name, value in model.named_parameters()}
    assert all(torch.equal(kept[name], value) for name, value in stored.items())


def test_an_adapter_leaves_its_base_alone(tmp_path, saved, tiny_model, tokenizer):
    base = saved(tiny_model("llama"), "base", torch.bfloat16)
    folder = adapted(base, ADAPTERS["lora"], tmp_path / "adapter", tokenizer)
    blend = open_blend(ModelConfig(base), folder)
    model = blend.load()
    blend.apply(model, 0.6)
    expected = plain(base).state_dict()
    weights = {
        name.replace(".base_layer", ""): value
        for name, value in model.get_base_model().state_dict().items()
        if "lora_" not in name
    }
    assert weights.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())


def refusal(reference, tuned):
    with pytest.raises(InputError) as caught:
        open_blend(ModelConfig(reference), tuned).load()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_other_models_are_refused(saved, tiny_model):
    reference = saved(tiny_model("llama"), "a")
    other = saved(tiny_model("opt"), "opt")
    assert "model_type is opt there and llama here" in refusal(reference, other)
    larger = saved(tiny_model("llama", vocab_size=400), "larger")
    assert "vocab_size is 400 there and 320 here" in refusal(reference, larger)
    turned = saved(tiny_model("llama", rope_parameters={"rope_theta": 5e5}), "turned")
    assert "rope_parameters" in refusal(reference, turned)
    assert "/no/such/model is no model folder" in refusal(reference, "/no/such/model")


def test_settings_that_leave_the_logits_alone_may_differ(saved, tiny_model):
    reference = saved(tiny_model("llama"), "a")
    tuned = tiny_model("llama")
    tuned.config.use_cache, tuned.config.pad_token_id = False, 0
    tuned.config.attention_dropout = 0.1
    assert isinstance(open_blend(ModelConfig(reference), saved(tuned, "b")).load(), PreTrainedModel)


def test_other_vocabularies_are_refused(saved, tiny_model, tokenizer):
    reference, tuned = saved(tiny_model("llama"), "a"), saved(tiny_model("llama"), "b")
    file = Path(tuned) / "tokenizer.json"
    rules = json.loads(file.read_text())
    vocabulary = rules["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    file.write_text(json.dumps(rules))
    assert "different vocabularies" in refusal(reference, tuned)
    for path in Path(tuned).glob("tokenizer*"):
        path.unlink()
    open_blend(ModelConfig(reference), tuned)


def test_quantised_models_are_refused(saved, tiny_model):
    reference, tuned = saved(tiny_model("llama"), "a"), saved(tiny_model("llama"), "b")
    path = Path(tuned) / "config.json"
    quantised = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": quantised}))
    assert "is quantised" in refusal(reference, tuned)


def test_checkpoints_that_lack_a_tensor_or_hold_one_of_another_shape_are_refused(saved, tiny_model):
    reference, tuned = saved(tiny_model("llama"), "a"), saved(tiny_model("llama"), "b")
    file = Path(tuned) / "model.safetensors"
    tensors = load_file(file)
    other = tensors | {"model.norm.weight": torch.ones(2)}
    save_file(other, file, metadata={"format": "pt"})
    assert "cannot be loaded as a causal language model" in refusal(reference, tuned)
    del tensors["model.norm.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    assert "lacks model.norm.weight" in refusal(reference, tuned)


def test_tensors_that_the_model_lacks_are_refused(saved, tiny_model):
    reference, tuned = saved(tiny_model("llama"), "a"), saved(tiny_model("llama"), "b")
    file = Path(tuned) / "model.safetensors"
    other = load_file(file) | {"model.extra.weight": torch.ones(2)}
    save_file(other, file, metadata={"format": "pt"})
    assert "holds model.extra.weight, which Llama" in refusal(reference, tuned)


def test_a_tied_head_may_be_stored_twice_but_not_differently(saved, tiny_model):
    model = tiny_model("llama", tie_word_embeddings=True)
    reference, tuned = saved(model, "a"), saved(model, "b")
    file = Path(tuned) / "model.safetensors"
    tensors = load_file(file)
    head = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors | {"lm_head.weight": head}, file, metadata={"format": "pt"})
    assert isinstance(open_blend(reference, tuned).load(), PreTrainedModel)
    save_file(tensors | {"lm_head.weight": head + 1}, file, metadata={"format": "pt"})
    assert "with different values, yet its model ties them" in refusal(reference, tuned)


def assert_in_the_middle(reference, tuned, start, end):
    """The blend of two folders at c = 1/2 is between two models, weight by weight."""
    blend = open_blend(ModelConfig(reference), tuned)
    model = blend.load()
    blend.apply(model, 0.5)
    before, after = start.state_dict(), end.state_dict()
    for name, value in model.state_dict().items():
        middle = (before[name].double() + after[name].double()) / 2
        torch.testing.assert_close(value.double(), middle, rtol=0, atol=3e-7)


def renamed(folder, change):
    file = Path(folder) / "model.safetensors"
    tensors = {change(name): tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


def test_names_without_the_prefix_of_the_decoder_are_known(saved, tiny_model):
    start = tiny_model("gpt2")
    end = changed(start)
    folders = saved(start, "a"), saved(end, "b")
    renamed(folders[0], lambda name: name.removeprefix("transformer."))
    assert_in_the_middle(*folders, start, end)


def test_names_that_transformers_has_changed_are_known(saved):
    settings = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        "gpt_neox", vocab_size=320, intermediate_size=32, eos_token_id=0, **settings
    )
    start = AutoModelForCausalLM.from_config(config)
    end = changed(start)
    folders = saved(start, "a"), saved(end, "b")
    renamed(folders[1], lambda name: name.replace("lm_head", "embed_out"))
    assert_in_the_middle(*folders, start, end)


def test_experts_that_loading_puts_together_are_blended(saved):
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    config = AutoConfig.for_model(
        "mixtral", vocab_size=320, num_attention_heads=2, num_key_value_heads=2, **shape
    )
    start = AutoModelForCausalLM.from_config(config)
    end = changed(start)
    assert_in_the_middle(saved(start, "a"), saved(end, "b"), start, end)


def with_setting(folder, **changes):
    path = Path(folder) / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"modules_to_save": ["norm"]},
        {"init_lora_weights": "pissa"},
        {"trainable_token_indices": [1, 2]},
        {"a_setting_of_tomorrow": 1},
        {"peft_type": "VERA"},
    ],
)
def test_adapters_that_scaling_does_not_interpolate_are_refused(
    tmp_path, saved, tiny_model, tokenizer, changes
):
    base = saved(tiny_model("llama"), "base")
    folder = adapted(base, ADAPTERS["lora"], tmp_path / "adapter", tokenizer)
    message = refusal(base, with_setting(folder, **changes))
    assert "merge_and_unload" in message
    assert all(str(value) in message for value in changes.values())


def test_adapters_of_another_base_are_refused(tmp_path, saved, tiny_model, tokenizer):
    base, other = saved(tiny_model("llama"), "base"), saved(tiny_model("llama"), "other")
    folder = adapted(base, ADAPTERS["lora"], tmp_path / "adapter", tokenizer)
    assert f"was trained on {base}, not on {other}" in refusal(other, folder)
    assert "holds an adapter, not a whole model" in refusal(folder, base)
    with_setting(folder, target_modules=["q_proj"])
    assert "does not fit LlamaForCausalLM" in refusal(base, folder)


def test_adapters_with_other_tensors_are_refused(tmp_path, saved, tiny_model, tokenizer):
    base = saved(tiny_model("llama"), "base")
    folder = adapted(base, ADAPTERS["lora"], tmp_path / "adapter", tokenizer)
    file = Path(folder) / "adapter_model.safetensors"
    save_file(load_file(file) | {"base_model.model.lm_head.weight": torch.ones(2)}, file)
    assert "holds base_model.model.lm_head.weight beside" in refusal(base, folder)


def test_there_is_never_a_second_model(saved, tiny_model):
    reference = tiny_model("llama")
    folders = saved(reference, "a"), saved(changed(reference), "b")

    def models():
        gc.collect()
        return sum(issubclass(type(each), PreTrainedModel) for each in gc.get_objects())

    before = models()
    blend = open_blend(ModelConfig(folders[0]), folders[1])
    assert models() == before
    model = blend.load()
    parts = sum(isinstance(module, PreTrainedModel) for module in model.modules())
    blend.apply(model, 0.5)
    assert models() == before + parts


def test_moving_takes_the_memory_of_a_few_tensors(saved, tiny_model):
    """On Linux, by the kernel's own count of the most memory that the process ever held."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux tells the peak of a while")
    shape = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 16}
    reference = tiny_model("llama", **shape)
    size = sum(weight.nbytes for weight in reference.parameters())
    largest = max(weight.nbytes for weight in reference.parameters())
    assert size > 60 * largest
    folders = saved(reference, "a"), saved(changed(reference), "b")
    model = deepcopy(reference)
    # What the process loads for the first move of all is not of the weights.
    small = saved(tiny_model("llama"), "small")
    open_blend(ModelConfig(small), small).apply(tiny_model("llama"), 0.5)
    blend = open_blend(ModelConfig(folders[0]), folders[1])

    def kibibytes(name):
        lines = Path("/proc/self/status").read_text().splitlines()
        (value,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
        return int(value)

    Path("/proc/self/clear_refs").write_text("5")
    before = kibibytes("VmRSS")
    blend.apply(model, 0.5)
    assert (kibibytes("VmHWM") - before) * 1024 < 16 * largest
