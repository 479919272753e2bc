"""One pair of models has the same figures wherever they are asked for, and they are the truth."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import processors
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from minifinetuning.blending import search as blend
from minifinetuning.cli import main
from minifinetuning.cli.parsing import parsed
from minifinetuning.data import read_corpus
from minifinetuning.lab.compare import compare, comparison_plan
from minifinetuning.lab.processes import in_this_process
from minifinetuning.models.weights import stored_dtype

pytestmark = pytest.mark.filterwarnings("default")

LENGTH = 48
FIGURES = ("reference", "tuned", "specialization", "degeneralization", "ratio", "intervals")
FIGURES += ("validation", "end_of_document")


@pytest.fixture
def folder(
    tmp_path: Path,
    llama: Any,
    tokenizer: PreTrainedTokenizerFast,
    sentences: Callable[[int, int], list[str]],
) -> Path:
    """`model`, whose tokenizer puts a BOS in front of each document; `data` and `general`."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=type(tokenizer.backend_tokenizer).from_str(
            tokenizer.backend_tokenizer.to_str()
        ),
        eos_token="<eos>",
        bos_token="<bos>",
    )
    llama.resize_token_embeddings(len(tokenizer))
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
    )
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    llama.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for name, texts in (
        ("data", sentences(40, 1)),
        ("general", [s[::-1] for s in sentences(9, 2)]),
    ):
        rows = [json.dumps({"text": text}) for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    return tmp_path


def words(folder: Path, verb: str, **options: object) -> list[str]:
    common: dict[str, object] = {
        "data": folder / "data.jsonl",
        "general": folder / "general.jsonl",
        "sequence_length": LENGTH,
        "per_device_eval_batch_size": 3,
    }
    pairs = (common | options).items()
    return [verb, *(str(word) for name, value in pairs for word in (f"--{name}", value))]


def training(folder: Path) -> dict[str, object]:
    return {
        "model": folder / "model",
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "learning_rate": 3e-3,
        "eval_steps": 3,
        "teacher_cache": "hidden",
    }


def true_perplexity(model: Any, stream: list[int], special: tuple[int, ...]) -> float:
    """exp of the mean over text positions, from transformers' own logits in float64."""
    nats, count = 0.0, 0
    for start in range(0, len(stream) - 1, LENGTH - 1):
        tokens = torch.tensor(stream[start : start + LENGTH])
        with torch.no_grad():
            predicted = model(input_ids=tokens[None]).logits[0].log_softmax(1)
        for place in range(1, len(tokens)):
            if tokens[place] not in special:
                nats -= float(predicted[place - 1, tokens[place]])
                count += 1
    return math.exp(nats / count)


@pytest.fixture
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """No autocast, whose rounding would be the largest difference from the truth."""
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)


def run(folder: Path, verb: str, output: str, **options: object) -> dict[str, Any]:
    """The figures that a verb writes to `output`."""
    place = folder / output
    name = "output" if verb == "evaluate" else "output_dir"
    assert main(words(folder, verb, **{name: place}, **options)) == 0
    figures: dict[str, Any] = json.loads(
        (place if verb == "evaluate" else place / "metrics.json").read_text()
    )
    return figures


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """To the last digit."""
    assert {name: one[name] for name in FIGURES} == {name: other[name] for name in FIGURES}


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_a_checkpoint_in_bfloat16_has_the_same_figures_in_every_verb(
    folder: Path, dtype: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.bfloat16)
    model.save_pretrained(folder / "model")
    held = {} if dtype is None else {"dtype": dtype}
    trained = run(folder, "train", "adapted", **training(folder), **held)
    assert trained["specialization"] > 1
    pair = {"reference": folder / "model", **held}
    same(run(folder, "evaluate", "evaluated.json", model=folder / "adapted", **pair), trained)
    # The point between the two, whose weights no dtype but float32 holds as they are.
    monkeypatch.setattr(blend, "best_point", lambda points, budget: points[1])
    line = {**pair, "tuned": folder / "adapted", "coefficients": 0.5}
    blended = run(folder, "blend", "blended", **line)
    same(blended["points"][-1], trained)
    assert blended["coefficient"] == 0.5
    same(run(folder, "evaluate", "again.json", model=folder / "blended", **pair), blended)
    for place in ("adapted", "blended"):
        assert stored_dtype(str(folder / place)) == torch.bfloat16


def test_a_run_that_starts_from_an_adapter_has_the_figures_of_evaluate(folder: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(folder / "model")
    adapter = LoraConfig(target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    adapted = get_peft_model(base, adapter)
    adapted.save_pretrained(folder / "start")
    options = training(folder) | {"model": folder / "start"}
    trained = run(folder, "train", "adapted", **options)
    pair = {"model": folder / "adapted", "reference": folder / "start"}
    same(run(folder, "evaluate", "evaluated.json", **pair), trained)


@pytest.mark.usefixtures("float32")
def test_every_verb_gives_the_figures_that_transformers_gives(folder: Path) -> None:
    options = training(folder)
    trained = run(folder, "train", "adapted", **options, save_steps=3)
    assert trained["specialization"] > 1

    reference = {"reference": folder / "model"}
    evaluated = run(folder, "evaluate", "evaluated.json", model=folder / "adapted", **reference)
    line = {**reference, "tuned": folder / "adapted", "coefficients": 1}
    blended = run(folder, "blend", "blended", **line)["points"][-1]
    assert blended["coefficient"] == 1

    command = words(folder, "compare", **options, output_dir=folder / "compared")
    model, chosen, data, config, _ = parsed("compare", command[1:])
    comparison = comparison_plan(model, data, config, methods="mft", seeds=chosen.seeds)
    (compared,) = compare(comparison, executor=in_this_process).values()

    for other in (evaluated, blended, compared):
        same(other, trained)

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "model")
    special = tokenizer.bos_token_id, tokenizer.eos_token_id
    for name, source in (("specialized", "data.jsonl"), ("general", "general.jsonl")):
        held_out = read_corpus([str(folder / source)], tokenizer, sequence_length=LENGTH)
        stream = held_out.validation.stream.tolist()
        for side, place in (("reference", "model"), ("tuned", "adapted")):
            weights = AutoModelForCausalLM.from_pretrained(folder / place, dtype=torch.float64)
            true = true_perplexity(weights.eval(), stream, special)
            assert trained[side][f"{name}_perplexity"] == pytest.approx(true, rel=1e-6)
