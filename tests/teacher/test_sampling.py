"""Sequences are what the logits and the random numbers say, however many are written at once."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from minifinetuning.models.causal import hidden_states, output_head
from minifinetuning.ops.head import whole_logits
from minifinetuning.teacher import sampling
from minifinetuning.teacher.sampling import drawn, sampled_sequences


def written(model, uniforms, bf16=False):
    return sampled_sequences(model, 5, uniforms, bf16=bf16, wrote=lambda count: None)


def uniforms_of(rows, length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, length - 1, dtype=torch.float64, generator=generator)


def logits_of(model, ids, bf16):
    """(B, T, V) as an evaluation has them: whole, of states under autocast."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        states = hidden_states(model, {"input_ids": ids})
        with whole_logits("cpu"):
            return output_head(model).logits(states.flatten(0, 1)).view(*ids.shape, -1)


@pytest.mark.parametrize("vocabulary", [3, 255, 256, 257, 1000])
def test_what_is_drawn_is_the_inverse_of_the_distribution(vocabulary):
    generator = torch.Generator().manual_seed(vocabulary)
    logits = 3 * torch.randn(500, vocabulary, generator=generator)
    logits[:, 1] = -torch.inf
    uniform = torch.rand(500, dtype=torch.float64, generator=generator)
    cumulative = torch.softmax(logits.double(), 1).cumsum(1)
    cumulative /= cumulative[:, -1:].clone()
    expected = torch.searchsorted(cumulative, uniform[:, None], right=True)[:, 0]
    got = drawn(logits, uniform)
    # Another order of summation may only matter where a number falls on a boundary.
    assert (got != expected).sum() <= 1
    assert not got.eq(1).any()


def test_the_ends_of_the_range_stand_for_tokens_that_have_weight():
    logits = torch.full((2, 300), -torch.inf)
    logits[:, 40] = logits[:, 270] = 0.0
    assert drawn(logits, torch.tensor([0.0, 1 - 2**-53]).double()).tolist() == [40, 270]


@pytest.mark.parametrize("family", ["llama", "gpt_neo", "gemma2", "qwen3", "gpt2", "mistral"])
def test_sequences_are_those_of_whole_forwards(tiny_model, family):
    model = tiny_model(family).eval()
    uniforms = uniforms_of(40, 14)
    got = written(model, uniforms).long()
    assert got.shape == (40, 14)
    assert got[:, 0].eq(5).all()
    logits = logits_of(model, got, bf16=False)
    for position in range(13):
        expected = drawn(logits[:, position], uniforms[:, position])
        assert (got[:, position + 1] != expected).sum() <= 1


@pytest.mark.parametrize("family", ["llama", "gpt_neo", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_bfloat16_it_is_the_distribution_of_an_evaluation(tiny_model, family, dtype):
    model = tiny_model(family).to(dtype).eval()
    ids = written(model, uniforms_of(300, 12, seed=1), bf16=True).long()
    log_p = torch.log_softmax(logits_of(model, ids, bf16=True)[:, :-1].double(), 2)
    surprise = -log_p.gather(2, ids[:, 1:, None])[..., 0]
    entropy = -(log_p.exp() * log_p).sum(2)
    difference = (surprise - entropy).flatten()
    assert abs(difference.mean()) < 4 * difference.std() / len(difference) ** 0.5


def test_a_row_does_not_depend_on_how_many_memory_has_room_for(tiny_model, monkeypatch):
    model, uniforms = tiny_model("llama"), uniforms_of(7, 9)
    batches = []
    decoder = model.get_decoder()
    decoder.register_forward_hook(
        lambda module, args, kwargs, out: batches.append(len(kwargs["input_ids"])),
        with_kwargs=True,
    )
    whole = written(model, uniforms)
    assert set(batches) == {1, 7}
    batches.clear()
    # Keys and values of two layers of 2 heads of 8, for nine positions, and 320 logits.
    a_row = 4 * 2 * 2 * 16 * 9 + 16 * 320
    memory = type("Memory", (), {"available": 2 * 3 * a_row})
    monkeypatch.setattr(sampling.psutil, "virtual_memory", lambda: memory)
    assert torch.equal(written(model, uniforms), whole)
    assert set(batches) == {1, 3}


def test_keys_and_values_grow_in_place(tiny_model):
    model = tiny_model("llama")
    places = set()

    def note(module, args, kwargs, outputs):
        layer = outputs.past_key_values.layers[0]
        if layer.get_seq_length() > 1:
            places.add(layer.keys.data_ptr())

    model.get_decoder().register_forward_hook(note, with_kwargs=True)
    written(model, uniforms_of(3, 9))
    assert len(places) == 1


def test_attention_under_a_cpus_autocast_is_whole():
    query = torch.randn(1, 2, 1, 8).bfloat16()
    with sampling._products(torch.device("cpu"), True):
        got = scaled_dot_product_attention(query, query, query)
        assert (torch.eye(2) @ torch.eye(2)).dtype == torch.bfloat16
    assert got.dtype == torch.float32
    with sampling._products(torch.device("cpu"), False):
        assert scaled_dot_product_attention(query, query, query).dtype == torch.bfloat16


def test_what_was_written_is_counted(tiny_model):
    counts = []
    sampled_sequences(tiny_model("llama"), 5, uniforms_of(4, 6), bf16=False, wrote=counts.append)
    assert sum(counts) == 4 * 5
    empty = sampled_sequences(
        tiny_model("llama"), 5, uniforms_of(0, 6), bf16=False, wrote=counts.append
    )
    assert empty.shape == (0, 6)
