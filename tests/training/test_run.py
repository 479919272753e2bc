"""A checkpoint's dtype comes back, and the figures are those of the weights that are written."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from minifinetuning.data.config import DataConfig, GeneralConfig
from minifinetuning.lab.evaluate import evaluate_models
from minifinetuning.models.config import AdapterConfig, ModelConfig
from minifinetuning.training import run as one_run
from minifinetuning.training.reference import ReferenceConfig, prepare_reference
from minifinetuning.training.run import adapt
from minifinetuning.training.texts import TextNeeds, read_texts

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def start(saved_model):
    """`start(dtype)`: the model that runs start from."""

    def make(dtype=torch.bfloat16):
        return str(saved_model(dtype))

    return make


@pytest.fixture
def data(text_files):
    specialized, general = text_files(40)
    return DataConfig(data=[specialized], general=[general], sequence_length=64)


@pytest.fixture
def run(data, training_arguments, tmp_path):
    def make(model, adapter=None, **changes):
        training = training_arguments(output_dir=str(tmp_path / "out"), **changes)
        texts = read_texts(model, data, TextNeeds(42))
        return adapt(model, AdapterConfig(adapter), texts, training)[0]

    return make


def written(tmp_path):
    """The dtypes in the file, and what config.json says."""
    found = {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()}
    (dtype,) = found
    said = json.loads((tmp_path / "out" / "config.json").read_text())["dtype"]
    assert str(dtype) == f"torch.{said}"
    return dtype


def test_the_figures_are_of_the_weights_that_are_written(
    start, run, data, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr("minifinetuning.models.precision.bfloat16_pays", lambda _=False: False)
    caplog.set_level("INFO")
    model = ModelConfig(start())
    metrics = run(model)
    assert written(tmp_path) == torch.bfloat16
    assert metrics["configuration"]["dtype"] == "float32"
    assert metrics["configuration"]["written_in"] == "bfloat16"
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics
    before = metrics["before_rounding"]
    assert before["specialization"] != metrics["specialization"]
    assert before["specialization"] == pytest.approx(metrics["specialization"], abs=0.5)
    assert f"{before['specialization']:.2f} % without" in caplog.text
    found = evaluate_models(ModelConfig(str(tmp_path / "out")), model, data, batch_size=8)
    for name in ("specialization", "degeneralization"):
        assert found[name] == pytest.approx(metrics[name], rel=1e-6)


@pytest.mark.parametrize("adapter", [None, "lora"])
def test_a_reference_is_measured_as_it_is_written(start, data, tmp_path, monkeypatch, adapter):
    monkeypatch.setattr("minifinetuning.models.precision.bfloat16_pays", lambda _=False: False)
    model = ModelConfig(start())
    training = ReferenceConfig(
        output_dir=str(tmp_path / "out"),
        max_steps=3,
        learning_rate=1e-2,
        eval_steps=3,
        save_steps=3,
        bf16=False,
    )
    text = GeneralConfig(general=data.general, sequence_length=64)
    metrics = prepare_reference(model, AdapterConfig(adapter), text, training)
    assert metrics["step"] == 3
    assert written(tmp_path) == torch.bfloat16
    found = evaluate_models(ModelConfig(str(tmp_path / "out")), model, data)
    assert metrics["tuned"]["general_perplexity"] == pytest.approx(
        found["tuned"]["general_perplexity"], rel=1e-6
    )
    chosen = metrics["history"][-1]["general_perplexity"]
    assert metrics["tuned"]["general_perplexity"] != chosen


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_dtype_that_was_asked_for_is_written(start, run, tmp_path, dtype):
    metrics = run(ModelConfig(start(), dtype=dtype), max_steps=1)
    assert str(written(tmp_path)) == f"torch.{dtype}"
    assert "before_rounding" not in metrics


def test_nothing_is_rounded_where_the_checkpoint_is_as_wide(start, run, tmp_path, monkeypatch):
    monkeypatch.setattr(one_run, "_copy", None)
    metrics = run(ModelConfig(start(torch.float32)), max_steps=1)
    assert written(tmp_path) == torch.float32
    assert "before_rounding" not in metrics


def test_an_adapter_keeps_its_digits(start, run, tmp_path):
    metrics = run(ModelConfig(start()), "lora", max_steps=1)
    weights = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert "before_rounding" not in metrics


def test_rounding_may_not_break_the_budget(start, run, tmp_path, monkeypatch, caplog):
    def more(reference, scores):
        return real(reference, scores) | {"degeneralization": 51.0}

    real = one_run.comparison
    monkeypatch.setattr(one_run, "comparison", more)
    metrics = run(
        ModelConfig(start()),
        max_degeneralization=50.0,
        **{"eval_strategy": "steps", "eval_steps": 5, "max_steps": 5},
    )
    assert metrics["degeneralization"] < 50
    assert written(tmp_path) == torch.float32
    assert "rounded to bfloat16 their DG would be 51.00 %" in caplog.text
    weights = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict().values()
    assert not all(torch.equal(each.bfloat16().float(), each) for each in weights)


def test_weights_that_would_overflow_stay_wide(start, run, tmp_path, caplog):
    place = start(torch.float16)
    metrics = run(ModelConfig(place), max_steps=1, learning_rate=1e5)
    assert written(tmp_path) == torch.float32
    assert "too large for float16" in caplog.text
    assert "before_rounding" not in metrics
