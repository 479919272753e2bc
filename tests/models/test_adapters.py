"""Adapters land on the projections that each family is known to have, and nowhere else."""

import pytest
import torch
from peft import get_peft_model

from minifinetuning.errors import InputError
from minifinetuning.models.adapters import adapter_config, projections

ATTENTION = ["q_proj", "k_proj", "v_proj"]
GATED = [*ATTENTION, "o_proj", "gate_proj", "up_proj", "down_proj"]
PROJECTIONS = {
    "llama": GATED,
    "gpt_neo": [*ATTENTION, "out_proj", "c_fc", "c_proj"],
    "phi": [*ATTENTION, "dense", "fc1", "fc2"],
    "gemma": GATED,
    "nemotron": [*ATTENTION, "o_proj", "up_proj", "down_proj"],
    "qwen2": GATED,
    "mistral": GATED,
}
"""Every linear layer of one decoder layer."""

DOWN_PROJECTION = {"gpt_neo": "c_proj", "phi": "fc2"}
LAYERS = 2


def layer_names(model, config):
    peft_model = get_peft_model(model, config)
    paths = [path for path, module in peft_model.named_modules() if hasattr(module, "base_layer")]
    return peft_model, sorted(path.split(".")[-1] for path in paths)


@pytest.mark.parametrize("adapter", ["lora", "dora"])
@pytest.mark.parametrize("family", PROJECTIONS)
def test_lora_and_dora_are_on_all_projections_and_not_on_the_head(tiny_model, family, adapter):
    model = tiny_model(family)
    config = adapter_config(adapter, model)
    assert (config.r, config.lora_alpha) == (8, 16)
    assert config.use_dora == (adapter == "dora")
    peft_model, names = layer_names(model, config)
    assert names == sorted(PROJECTIONS[family] * LAYERS)
    assert_a_step_trains(peft_model)


@pytest.mark.parametrize("family", PROJECTIONS)
def test_ia3_is_on_keys_values_and_the_way_out_of_the_mlp(tiny_model, family):
    model = tiny_model(family)
    down = DOWN_PROJECTION.get(family, "down_proj")
    peft_model, names = layer_names(model, adapter_config("ia3", model))
    assert names == sorted(["k_proj", "v_proj", down] * LAYERS)
    scaled = {
        path.split(".")[-1]: module.ia3_l["default"].numel()
        for path, module in peft_model.named_modules()
        if hasattr(module, "base_layer")
    }
    # Keys and values are scaled after their projection (2 of 4 heads of 8, where heads are
    # grouped), the MLP before its last one.
    grouped = 16 if family != "gpt_neo" else 32
    assert scaled == {"k_proj": grouped, "v_proj": grouped, down: 64}
    assert_a_step_trains(peft_model)


def assert_a_step_trains(model):
    tokens = torch.arange(3, 23)[None]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    losses = []
    for _ in range(2):
        loss = model(input_ids=tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)


def test_the_rank_is_the_one_asked_for(tiny_model):
    model = tiny_model("llama")
    model, _ = layer_names(model, adapter_config("lora", model, rank=3))
    ranks = {p.shape[0] for n, p in model.named_parameters() if "lora_A" in n}
    assert ranks == {3}


@pytest.mark.parametrize("rank", [0, -4])
@pytest.mark.parametrize("adapter", ["lora", "dora"])
def test_a_rank_below_one_is_refused(tiny_model, adapter, rank):
    with pytest.raises(InputError, match=f"--rank must be at least 1, got {rank}"):
        adapter_config(adapter, tiny_model("llama"), rank)


def test_an_unknown_adapter_is_refused(tiny_model):
    with pytest.raises(InputError, match="--adapter prefix is not known: choose one of lora"):
        adapter_config("prefix", tiny_model("llama"))


def test_a_model_without_known_blocks_is_refused():
    class Strange(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList([torch.nn.Linear(4, 4)])

    with pytest.raises(InputError, match="no attention and MLP projections were found in Strange"):
        projections(Strange())


def test_ia3_tells_layers_of_one_name_apart(tiny_model):
    # GPT-2 calls the last projection of attention and of the MLP alike.
    model = tiny_model("gpt2")
    peft_model, _ = layer_names(model, adapter_config("ia3", model))
    paths = [path for path, module in peft_model.named_modules() if hasattr(module, "base_layer")]
    adapted = {".".join(path.split(".")[-2:]) for path in paths}
    assert adapted == {"attn.c_attn", "mlp.c_proj"}


def test_ia3_finds_the_mlp_however_its_name_is_written(tiny_model):
    model = tiny_model("llama")
    for layer in model.model.layers:
        layer.MLP = layer.mlp
        del layer.mlp
    assert adapter_config("ia3", model).feedforward_modules == {"down_proj"}
