"""A cache is known by what it was computed from, and by nothing else."""

from dataclasses import fields, replace

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from minifinetuning.models.adapters import adapter_config
from minifinetuning.models.weights import weights_identity
from minifinetuning.teacher.fingerprint import Fingerprint, text_identity

FINGERPRINT = Fingerprint("hidden", "text", "weights", "float32", "float32 weights")


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi"])
def test_a_model_is_the_same_with_any_adapter_and_after_loading_it_again(
    tiny_model, tmp_path, family
):
    identity = weights_identity(tiny_model(family))
    for adapter in ("lora", "dora", "ia3"):
        model = tiny_model(family)
        assert weights_identity(get_peft_model(model, adapter_config(adapter, model))) == identity
    tiny_model(family).save_pretrained(tmp_path / "saved")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    assert weights_identity(loaded) == identity


def test_one_changed_weight_or_setting_is_another_model(tiny_model):
    identity = weights_identity(tiny_model("cohere"))
    model = tiny_model("cohere")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 5] += 1e-6
    assert weights_identity(model) != identity
    assert weights_identity(tiny_model("cohere", logit_scale=0.5)) != identity
    assert weights_identity(tiny_model("cohere").bfloat16()) != identity


def test_a_text_is_its_tokens_masks_labels_and_their_order():
    first = {"input_ids": [1, 2, 3], "attention_mask": [1, 1, 1], "labels": [1, 2, 3]}
    second = {"input_ids": [4, 5]}
    identity = text_identity([first, second])
    assert identity.predictions == (2, 1)
    plain = {"input_ids": torch.tensor([1, 2, 3])}
    assert text_identity([plain, second]) == identity
    others = [
        [second, first],
        [first],
        [{"input_ids": [1, 2]}, {"input_ids": [3, 4, 5]}],
        [first | {"input_ids": [1, 2, 4]}, second],
        [first | {"attention_mask": [1, 1, 0]}, second],
        [first | {"labels": [-100, -100, 3]}, second],
    ]
    digests = {text_identity(other).digest for other in others}
    assert len(digests) == len(others)
    assert identity.digest not in digests


def test_every_field_is_part_of_the_key_and_has_words_for_its_difference():
    keys = {FINGERPRINT.key}
    for field in fields(FINGERPRINT):
        other = replace(FINGERPRINT, **{field.name: "other"})
        keys.add(other.key)
        said = FINGERPRINT.difference(vars(other))
        assert said
        assert field.name in ("text", "weights") or "other" in said
    assert len(keys) == 1 + len(fields(FINGERPRINT))
    assert FINGERPRINT.difference(vars(FINGERPRINT)) is None
    assert FINGERPRINT.difference({}) is not None
