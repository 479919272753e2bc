"""`--teacher_cache auto` and its siblings: what is chosen, and what is refused before any work."""

import shutil
from collections import namedtuple
from contextlib import nullcontext

import pytest
import torch
from peft import get_peft_model

from minifinetuning.errors import InputError
from minifinetuning.models.adapters import adapter_config
from minifinetuning.models.causal import freeze_head
from minifinetuning.teacher import open_cache, plan_cache, require_known
from minifinetuning.teacher.live import starting_teacher


@pytest.fixture
def texts(random_sequences):
    return {"train": random_sequences(4), "validation": random_sequences(2, seed=1)}


def plan(requested, model, texts, passes=3.0, autocast=nullcontext):
    return plan_cache(requested, model, texts, passes=passes, autocast=autocast)


def whole(requested, model, texts, passes=3.0):
    planned = plan(requested, model, texts, passes)
    open_cache(planned, starting_teacher(model), texts, batch_size=2, autocast=nullcontext)
    return planned


def lora(model):
    return get_peft_model(model, adapter_config("lora", model))


def test_auto_takes_expected_embeddings_where_the_head_is_frozen(tiny_model, texts):
    assert plan("auto", tiny_model("llama"), texts).kind == "hidden"
    assert plan("auto", lora(tiny_model("llama")), texts).kind == "expected"
    model = tiny_model("phi")
    freeze_head(model)
    assert plan("auto", model, texts).kind == "expected"
    capped = plan("auto", lora(tiny_model("gemma2")), texts)
    assert capped.kind == "hidden"
    assert "the model caps its logits" in str(capped)


def test_expected_falls_back_to_hidden_and_says_why(tiny_model, texts):
    chosen = plan("expected", tiny_model("llama"), texts)
    assert chosen.kind == "hidden"
    assert "the output head is trained, unless with --freeze_head or --adapter" in str(chosen)


def test_hidden_is_taken_where_asked_for_whatever_the_head(tiny_model, texts):
    assert plan("hidden", lora(tiny_model("llama")), texts).kind == "hidden"


def test_auto_takes_none_for_a_single_pass_unless_the_cache_is_there(tiny_model, texts):
    chosen = plan("auto", tiny_model("llama"), texts, passes=1.0)
    assert (chosen.kind, dict(chosen.stores)) == (None, {})
    assert "a single pass would not use it twice" in str(chosen)
    whole("hidden", tiny_model("llama"), texts)
    assert plan("auto", tiny_model("llama"), texts, passes=1.0).kind == "hidden"


def test_auto_leaves_half_of_the_disk_and_a_cache_asked_for_all_that_it_needs(
    tiny_model, texts, monkeypatch
):
    needed = plan("auto", tiny_model("llama"), texts).bytes
    usage = namedtuple("usage", "total used free")

    def free(count):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, count))

    free(2 * needed - 1)
    for automatic in ("auto", "auto_hidden", "auto_expected"):
        said = str(plan(automatic, tiny_model("llama"), texts))
        assert "would be more than the 11.5 kB that are left for teachers' caches" in said
    assert plan("hidden", tiny_model("llama"), texts).kind == "hidden"
    free(needed - 1)
    with pytest.raises(InputError, match=r"--teacher_cache hidden needs 11\.5 kB, but the disk"):
        plan("hidden", tiny_model("llama"), texts)


def test_a_cache_that_others_use_too_is_taken_for_a_single_pass(tiny_model, texts):
    assert plan("auto_hidden", lora(tiny_model("llama")), texts, passes=1.0).kind == "hidden"
    assert plan("auto_expected", lora(tiny_model("llama")), texts, passes=1.0).kind == "expected"


def test_one_line_says_kind_size_and_place(tiny_model, texts, own_cache):
    said = str(plan("auto", tiny_model("llama"), texts))
    assert "\n" not in said
    assert said.startswith("teacher: hidden-state cache (")
    assert "11.5 kB = 90 tokens x 128 bytes, to be computed, in " in said
    assert str(own_cache / "teachers") in said
    whole("auto", tiny_model("llama"), texts)
    assert "already there" in str(plan("auto", tiny_model("llama"), texts))


def test_states_are_kept_in_what_the_model_runs_in(tiny_model, texts):
    def autocast():
        return torch.autocast("cpu", torch.bfloat16)

    def dtype(model, autocast=nullcontext):
        store = plan("hidden", model, texts, autocast=autocast).stores["train"]
        return store.contents.columns[0].dtype

    assert dtype(tiny_model("llama")) == torch.float32
    assert dtype(tiny_model("llama"), autocast) == torch.bfloat16
    assert dtype(tiny_model("llama").bfloat16()) == torch.bfloat16
    folders = {
        plan("hidden", tiny_model("llama"), texts, autocast=used).stores["train"].folder
        for used in (nullcontext, autocast)
    }
    assert len(folders) == 2


def test_a_folder_of_ones_own_holds_what_is_trained_on_and_the_others_below(
    tiny_model, texts, tmp_path, own_cache
):
    folder = tmp_path / "mine"
    planned = whole(str(folder), lora(tiny_model("llama")), texts)
    assert planned.kind == "expected"
    assert planned.stores["train"].folder == folder
    assert planned.stores["validation"].folder == folder / "validation"
    assert not own_cache.exists()
    with pytest.raises(InputError, match="holds expected embeddings, which are not possible here"):
        plan(str(folder), tiny_model("llama"), texts)
    with pytest.raises(InputError, match="is of another text"):
        plan(str(folder), lora(tiny_model("llama")), {"train": texts["validation"]})
    other = tiny_model("llama")
    with torch.no_grad():
        other.model.norm.weight.mul_(2.0)
    with pytest.raises(InputError, match="is of another model"):
        plan(str(folder), lora(other), texts)


def test_full_finetuning_uses_the_hidden_states_of_an_adapters_run(tiny_model, texts):
    whole("hidden", lora(tiny_model("llama")), texts)
    assert "already there" in str(plan("auto", tiny_model("llama"), texts))


@pytest.mark.parametrize("word", ["hiden", "yes", "expected_embedding"])
def test_a_misspelt_word_is_not_taken_for_a_folder(word):
    with pytest.raises(InputError, match=f"--teacher_cache {word} is not known: give auto, none"):
        require_known(word)
