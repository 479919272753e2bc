"""A merged adapter is the model that was adapted, and can be trained; what cannot be is refused."""

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

from minifinetuning.errors import InputError
from minifinetuning.models.loading import load_as_started, load_as_trained, load_model
from minifinetuning.models.saving import save_model

# What PEFT says on making such adapters is what these tests are about.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*(tie_word_embeddings|save_embedding_layers|embedding layers)"
)


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(1, 30)[None]).logits


@pytest.fixture
def adapter_folder(tmp_path, tiny_model):
    """`adapter_folder(tied, **settings)`: an adapter that changes all it can, its logits."""

    def make(tied=True, **settings):
        base = tmp_path / "base"
        tiny_model("llama", tie_word_embeddings=tied).save_pretrained(base)
        adapted = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base),
            LoraConfig(r=2, task_type="CAUSAL_LM", **settings),
        )
        torch.manual_seed(3)
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.3 * torch.randn_like(parameter))
        adapted.save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter", logits(adapted)

    return make


TIED = {
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embeddings": {"target_modules": ["embed_tokens", "v_proj"]},
    "both": {"target_modules": ["embed_tokens", "lm_head"]},
    "both, tied": {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
    "whole head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "whole embeddings": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "whole, tied": {
        "target_modules": ["q_proj"],
        "modules_to_save": ["embed_tokens", "lm_head"],
        "ensure_weight_tying": True,
    },
    "some tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [3, 5]},
    "neither": {"target_modules": ["q_proj"]},
}


@pytest.mark.parametrize("name", TIED)
def test_an_adapter_on_a_model_with_tied_embeddings_merges_into_the_same_logits(
    tmp_path, adapter_folder, tiny_model, name
):
    folder, expected = adapter_folder(**TIED[name])
    assert (expected - logits(tiny_model("llama", tie_word_embeddings=True))).abs().max() > 0.1
    model = load_model(str(folder))
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    same = torch.equal(model.get_input_embeddings().weight, model.lm_head.weight)
    assert same == (name in ("both, tied", "whole, tied", "some tokens", "neither"))
    assert (model.get_input_embeddings().weight is model.lm_head.weight) == same
    assert model.config.tie_word_embeddings == same
    save_model(model, tmp_path / "merged")
    assert torch.equal(logits(load_model(str(tmp_path / "merged"))), logits(model))


@pytest.mark.parametrize("name", TIED)
def test_an_adapter_is_measured_as_it_was_trained(adapter_folder, name):
    folder, expected = adapter_folder(**TIED[name])
    model = load_as_trained(str(folder))
    if "head" in name or "both" in name or name in ("whole, tied", "some tokens"):
        assert not isinstance(model, PeftModel)
        torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    else:
        assert isinstance(model, PeftModel)
        assert torch.equal(logits(model), expected)


def test_a_merged_model_can_be_trained(adapter_folder, training_arguments):
    from minifinetuning.training.trainer import MFTTrainer

    folder, expected = adapter_folder(target_modules=["q_proj", "down_proj"])
    model = load_model(str(folder))
    assert all(parameter.requires_grad for parameter in model.parameters())
    data = [{"input_ids": list(range(5, 15))}] * 4
    MFTTrainer(model, training_arguments(max_steps=2), train_dataset=data).train()
    assert (logits(model) - expected).abs().max() > 1e-3


def test_replicated_layers_are_not_merged(adapter_folder):
    folder, expected = adapter_folder(target_modules=["q_proj"], layer_replication=[[0, 2], [1, 2]])
    with pytest.raises(InputError, match="replicates layers, and the copies share their weights"):
        load_model(str(folder))
    for measured in (load_as_trained, load_as_started):
        assert torch.equal(logits(measured(str(folder))), expected)


def test_what_would_not_be_the_adapted_model_is_not_merged(adapter_folder, monkeypatch):
    folder, _ = adapter_folder(target_modules=["q_proj"])
    monkeypatch.setattr(
        "peft.tuners.lora.LoraModel.merge_and_unload", lambda wrapped, **_: wrapped.unload()
    )
    with pytest.raises(InputError, match="would give other logits than the adapted one"):
        load_model(str(folder))


def test_an_adapter_on_quantised_weights_is_measured_beside_them(adapter_folder, monkeypatch):
    """A fake of 4 bits: weights on a grid, and the flags that transformers sets."""
    folder, _ = adapter_folder(target_modules=["q_proj"])
    load = AutoModelForCausalLM.from_pretrained

    def quantised(*arguments, **options):
        model, found = load(*arguments, **{**options, "output_loading_info": True})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_((parameter / 0.1).round() * 0.1)
        model.is_quantized = True
        return (model, found) if options.get("output_loading_info") else model

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", quantised)
    expected = logits(PeftModel.from_pretrained(quantised(folder.parent / "base"), folder))
    for measured in (load_as_trained, load_as_started):
        assert torch.equal(logits(measured(str(folder))), expected)
    with pytest.raises(InputError, match="its base model is quantised, and merging would round"):
        load_model(str(folder))


def test_an_adapter_on_the_prompt_is_refused_in_one_sentence(tmp_path, tiny_model):
    tiny_model("llama").save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    settings = PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    get_peft_model(base, settings).save_pretrained(tmp_path / "adapter")
    for load in (load_model, load_as_trained):
        with pytest.raises(InputError, match="PROMPT_TUNING, which works on the prompt"):
            load(str(tmp_path / "adapter"))
