"""A model's two halves, against the logits of transformers' own forward."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from minifinetuning.errors import InputError
from minifinetuning.models.causal import (
    causal_model,
    check_halves,
    evaluating,
    hidden_states,
    output_head,
)

FAMILIES = [
    "llama",
    "gpt_neo",
    "phi",
    "gemma",
    "gemma2",
    "nemotron",
    "qwen2",
    "qwen3",
    "mistral",
    "cohere",
    "granite",
    "opt",
    "gpt2",
]


@pytest.fixture
def batch():
    tokens = torch.randint(0, 320, (2, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens)
    mask[1, 7:] = 0
    return {"input_ids": tokens, "attention_mask": mask}


@pytest.mark.parametrize("family", FAMILIES)
def test_head_on_decoder_gives_the_models_own_logits(tiny_model, batch, family):
    model = tiny_model(family).eval()
    with torch.no_grad():
        expected = model(**batch).logits
        got = output_head(model).logits(hidden_states(model, batch))
    assert expected.std() > 0.1
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    check_halves(model)


def test_what_a_family_does_to_its_logits_is_in_its_head(tiny_model):
    plain = output_head(tiny_model("llama"))
    assert (plain.bias, plain.scale, plain.soft_cap) == (None, 1.0, None)
    phi = tiny_model("phi")
    assert output_head(phi).bias is phi.lm_head.bias
    assert output_head(tiny_model("gemma2")).soft_cap == 2.0
    assert output_head(tiny_model("cohere")).scale == 0.25
    assert output_head(tiny_model("granite")).scale == 0.25


def test_the_head_is_live(tiny_model, batch):
    model = tiny_model("gemma")
    output_head(model).logits(hidden_states(model, batch)).sum().backward()
    assert model.get_output_embeddings().weight.grad.abs().sum() > 0


@pytest.mark.parametrize("doctor", ["scaled logits", "capped logits", "scaled states"])
def test_an_architecture_with_a_doctored_head_is_refused(tiny_model, monkeypatch, doctor):
    model = tiny_model("llama")
    own = type(model).forward

    def forward(self, *args, **kwargs):
        outputs = own(self, *args, **kwargs)
        if doctor == "scaled logits":
            outputs.logits = outputs.logits * 1.05
        elif doctor == "capped logits":
            outputs.logits = torch.tanh(outputs.logits)
        else:
            outputs.logits = self.lm_head(0.9 * outputs.logits[..., : self.config.hidden_size])
        return outputs

    monkeypatch.setattr(type(model), "forward", forward)
    with pytest.raises(InputError, match=r"LlamaForCausalLM .* is not supported"):
        check_halves(model)


def test_a_head_that_is_not_one_linear_layer_is_refused(tiny_model):
    model = tiny_model("llama")
    config = LoraConfig(r=2, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM")
    with pytest.raises(InputError, match="target modules"):
        output_head(get_peft_model(model, config))
    model = tiny_model("llama")
    config = LoraConfig(
        r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM"
    )
    with pytest.raises(InputError, match="modules_to_save"):
        output_head(get_peft_model(model, config))


def test_the_causal_model_inside_a_peft_model_has_its_adapters(tiny_model, batch):
    model = get_peft_model(tiny_model("llama"), LoraConfig(r=2, task_type="CAUSAL_LM"))
    plain = hidden_states(model, batch)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    assert type(causal_model(model)).__name__ == "LlamaForCausalLM"
    assert (hidden_states(model, batch) - plain).abs().max() > 0.1


def test_evaluating_gives_every_module_its_own_mode_back(tiny_model):
    model = tiny_model("llama")
    model.train()
    model.model.layers[0].eval()
    modes = {name: module.training for name, module in model.named_modules()}

    def failing():
        with evaluating(model):
            assert not any(module.training for module in model.modules())
            assert not torch.is_grad_enabled()
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert modes == {name: module.training for name, module in model.named_modules()}
    assert torch.is_grad_enabled()
