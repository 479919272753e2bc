"""Weights on disk come back one by one, under the names that their model gives them."""

import json
import os

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save_file

from minifinetuning.errors import InputError
from minifinetuning.models.weights import StoredWeights, model_folder, stored_dtype


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


def test_the_dtype_on_disk(saved_model, tmp_path, tiny_model):
    assert stored_dtype(str(saved_model(torch.bfloat16))) == torch.bfloat16
    assert stored_dtype("/no/such/model.gguf") is None
    pickled = tmp_path / "pickled"
    tiny_model("llama").half().save_pretrained(pickled)
    (pickled / "model.safetensors").unlink()
    assert stored_dtype(str(pickled)) == torch.float16
    (pickled / "config.json").write_text("{}")
    assert stored_dtype(str(pickled)) is None
