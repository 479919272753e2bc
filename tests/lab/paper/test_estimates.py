"""Costs against arithmetic done by hand, and model sizes against the architectures themselves."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPTNeoConfig,
    LlamaConfig,
    NemotronConfig,
    PhiConfig,
)

from minifinetuning.lab.paper.cells import paper_cell
from minifinetuning.lab.paper.estimates import (
    GPU_FLOPS,
    cell_estimate,
    estimate,
    reference_estimate,
)
from minifinetuning.lab.paper.models import PAPER_MODELS
from minifinetuning.lab.paper.protocol import PAPER

LLAMA_3 = {"vocab_size": 128256, "num_key_value_heads": 8}

# The configurations that the makers published.
ARCHITECTURES = {
    "GPT Neo 125M": GPTNeoConfig(
        hidden_size=768, num_layers=12, num_heads=12, attention_types=[[["global", "local"], 6]]
    ),
    "GPT Neo 1.3B": GPTNeoConfig(hidden_size=2048, num_layers=24, num_heads=16),
    "GPT Neo 2.7B": GPTNeoConfig(
        hidden_size=2560, num_layers=32, num_heads=20, attention_types=[[["global", "local"], 16]]
    ),
    "Phi 1.5": PhiConfig(
        vocab_size=51200,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=24,
        num_attention_heads=32,
    ),
    "Phi 2": PhiConfig(
        vocab_size=51200,
        hidden_size=2560,
        intermediate_size=10240,
        num_hidden_layers=32,
        num_attention_heads=32,
    ),
    "Gemma 2B": GemmaConfig(
        vocab_size=256000,
        hidden_size=2048,
        intermediate_size=16384,
        num_hidden_layers=18,
        num_attention_heads=8,
        num_key_value_heads=1,
        head_dim=256,
    ),
    "Minitron 4B": NemotronConfig(
        vocab_size=256000,
        hidden_size=3072,
        intermediate_size=9216,
        num_hidden_layers=32,
        num_attention_heads=24,
        num_key_value_heads=8,
        head_dim=128,
    ),
    "LLaMA 2 7B": LlamaConfig(vocab_size=32000, hidden_size=4096, intermediate_size=11008),
    "Llama 3.1 8B": LlamaConfig(hidden_size=4096, intermediate_size=14336, **LLAMA_3),
    "Llama 3.2 1B": LlamaConfig(
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        head_dim=64,
        tie_word_embeddings=True,
        **LLAMA_3,
    ),
    "Llama 3.2 3B": LlamaConfig(
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=28,
        num_attention_heads=24,
        head_dim=128,
        tie_word_embeddings=True,
        **LLAMA_3,
    ),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_sizes_are_those_of_the_architectures(name):
    config = ARCHITECTURES[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert PAPER_MODELS[name].parameters == sum(p.numel() for p in model.parameters())
    assert PAPER_MODELS[name].hidden_size == config.hidden_size


def test_a_training_costs_six_operations_a_parameter_and_token():
    model = PAPER_MODELS["Llama 3.2 1B"]
    parameters = model.parameters
    evaluations = 10 * 2 * 500_000 * 2 * parameters
    finetuning = cell_estimate(paper_cell(model.name, "FT", "PubMed"), model, PAPER)
    assert finetuning.tokens == 1000 * 16 * 2048
    assert finetuning.operations == 6 * parameters * 1000 * 16 * 2048 + evaluations
    assert finetuning.hours == pytest.approx(finetuning.operations / (0.4 * 989e12) / 3600)
    assert GPU_FLOPS == 0.4 * 989e12
    lora = cell_estimate(paper_cell(model.name, "LoRA", "PubMed"), model, PAPER)
    assert lora.operations == 4 * parameters * 1000 * 16 * 2048 + evaluations


def test_a_teacher_is_asked_once_for_all_cells_of_a_text():
    model = PAPER_MODELS["OpenELM 270M"]
    taus = [paper_cell(model.name, "MFT", "PubMed", tau=tau) for tau in (0.1, 0.5)]
    both = estimate(taus, [], PAPER, PAPER_MODELS.__getitem__)
    single = [cell_estimate(cell, model, PAPER) for cell in taus]
    asked = both.operations - sum(one.operations for one in single)
    assert asked == pytest.approx(2 * model.parameters * 4_000_000)
    assert both.bytes == 2 * model.hidden_size * 4_000_000
    finetuning = [paper_cell(model.name, "FT", "PubMed")]
    assert estimate(finetuning, [], PAPER, PAPER_MODELS.__getitem__).bytes == 0


def test_a_reference_is_one_epoch_and_a_checkpoint():
    model = PAPER_MODELS["Gemma 2B"]
    found = reference_estimate(model, PAPER)
    assert found.tokens == 4_000_000
    assert found.operations == model.parameters * (6 * 4_000_000 + 2 * 10 * 500_000)
    assert found.bytes == 4 * model.parameters
    assert estimate([], [model], PAPER, PAPER_MODELS.__getitem__) == found
