"""The point that is chosen along the line, and what lies in its folder."""

import errno
import json
import random
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from minifinetuning.blending import search as experiment
from minifinetuning.blending.line import open_blend
from minifinetuning.blending.search import (
    BlendPoint,
    best_point,
    blend_models,
    blend_points,
    next_coefficient,
)
from minifinetuning.data import read_corpus
from minifinetuning.data.config import DataConfig
from minifinetuning.errors import InputError
from minifinetuning.models.config import ModelConfig


def point(coefficient, gain, loss):
    changes = {"specialization": gain, "degeneralization": loss}
    return BlendPoint(coefficient, {}, changes)


def test_the_largest_gain_within_the_budget_is_chosen():
    points = [point(0, 0, 0), point(0.5, 4, 1), point(0.8, 6, 2.5), point(1, 5, 4)]
    assert best_point(points, None).coefficient == 0.8
    assert best_point(points, 2.5).coefficient == 0.8
    assert best_point(points, 2.4).coefficient == 0.5
    assert best_point(points, 0.5).coefficient == 0


def test_of_equal_gains_the_nearest_to_the_reference_is_chosen():
    assert best_point([point(0, 0, 0), point(0.5, 4, 1), point(1, 4, 1)], 2).coefficient == 0.5


def test_the_step_that_crosses_the_budget_is_halved():
    points = [point(0, 0, 0), point(0.5, 4, 1), point(1, 6, 3)]
    assert next_coefficient(points, 2) == 0.75
    assert next_coefficient(points, 0.5) == 0.25
    assert next_coefficient(points, 3) is None
    assert next_coefficient(points, None) is None


def test_nothing_is_refined_where_the_gain_has_passed_its_peak_within_the_budget():
    points = [point(0, 0, 0), point(0.4, 5, 1), point(0.6, 4, 2), point(1, 1, 6)]
    assert next_coefficient(points, 3) is None
    assert best_point(points, 3).coefficient == 0.4


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tokenizer, tiny_model):
    """A model that knows one text, that model tuned on another, and an adapter to the same end."""
    root = tmp_path_factory.mktemp("blend")
    words = tokenizer.decode(range(257, 320)).split()
    for name, seed, count in (("general", 1, 120), ("data", 2, 40)):
        rows = [json.dumps({"text": text}) for text in chains(words, seed, count)]
        (root / f"{name}.jsonl").write_text("\n".join(rows))
    reference = tiny_model("llama", initializer_range=0.1)
    train(reference, ids(tokenizer, root / "general.jsonl"), steps=80)
    tuned = deepcopy(reference)
    train(tuned, ids(tokenizer, root / "data.jsonl"), steps=30)
    for name, model in (("reference", reference), ("tuned", tuned)):
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    base = AutoModelForCausalLM.from_pretrained(root / "reference")
    config = LoraConfig(r=8, lora_alpha=32, target_modules=["q_proj", "v_proj", "down_proj"])
    adapted = get_peft_model(base, config)
    train(adapted, ids(tokenizer, root / "data.jsonl"), steps=30)
    adapted.save_pretrained(root / "adapter")
    return root


def chains(words, seed, count):
    """Documents in which each word is followed by one of two, which `seed` decides."""
    source = random.Random(seed)
    following = {word: source.sample(words, 2) for word in words}
    documents = []
    for _ in range(count):
        document = [source.choice(words)]
        while len(document) < 40:
            document.append(source.choice(following[document[-1]]))
        documents.append(" ".join(document))
    return documents


def ids(tokenizer, file):
    text = " ".join(json.loads(line)["text"] for line in file.read_text().splitlines())
    tokens = torch.tensor(tokenizer(text)["input_ids"])
    return tokens[: len(tokens) // 32 * 32].view(-1, 32)


def train(model, rows, steps):
    torch.manual_seed(0)
    parameters = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    for _ in range(steps):
        batch = rows[torch.randint(len(rows), (16,))]
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def run(folders, output, tuned="tuned", reference="reference", **changes):
    data = DataConfig(
        data=[str(folders / "data.jsonl")],
        general=[str(folders / "general.jsonl")],
        sequence_length=64,
    )
    options = {"coefficients": [0.5], "batch_size": 16} | changes
    return blend_models(str(folders / reference), str(folders / tuned), data, output, **options)


def plain_perplexity(model, file, tokenizer):
    """On text positions of the validation, one sequence at a time, from transformers' logits."""
    validation = read_corpus([str(file)], tokenizer, sequence_length=64).validation
    losses, tokens = 0.0, 0
    for row in (validation[index] for index in range(len(validation))):
        sequence = row["input_ids"][row["attention_mask"].bool()]
        with torch.no_grad():
            logits = model.eval()(sequence[None]).logits[0, :-1].double()
        text = sequence[1:] != tokenizer.eos_token_id
        losses += float(
            torch.nn.functional.cross_entropy(logits[text], sequence[1:][text], reduction="sum")
        )
        tokens += int(text.sum())
    return float(torch.tensor(losses / tokens).exp())


def test_what_is_written_is_the_chosen_point(folders, tmp_path):
    metrics = run(folders, tmp_path / "out", budget=20.0)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics
    c = metrics["coefficient"]
    assert 0 < c < 1
    assert metrics["degeneralization"] <= 20 < metrics["points"][-1]["degeneralization"]
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    start, end = (
        AutoModelForCausalLM.from_pretrained(folders / name).state_dict()
        for name in ("reference", "tuned")
    )
    for name, value in written.state_dict().items():
        expected = start[name].double() + c * (end[name].double() - start[name].double())
        torch.testing.assert_close(value.double(), expected, rtol=0, atol=1e-6)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    for text, file in (("specialized", "data"), ("general", "general")):
        measured = metrics["tuned"][f"{text}_perplexity"]
        found = plain_perplexity(written, folders / f"{file}.jsonl", tokenizer)
        assert measured == pytest.approx(found, rel=0.02)  # bfloat16 autocast, where it pays


def test_the_point_kept_lies_just_within_the_budget(folders, tmp_path):
    metrics = run(folders, tmp_path / "out", budget=20.0)
    points = metrics["points"]
    coefficients = [each["coefficient"] for each in points]
    assert coefficients == sorted(coefficients)
    assert {0, 0.5, 1} <= set(coefficients)
    assert len(points) == 7
    within = [each for each in points if each["degeneralization"] <= 20]
    beyond = [each for each in points if each["degeneralization"] > 20]
    assert metrics["specialization"] == max(each["specialization"] for each in within)
    assert beyond[0]["coefficient"] - within[-1]["coefficient"] == pytest.approx(0.5 / 2**4)
    for each in points:
        low, high = each["intervals"]["specialization"]
        assert low <= each["specialization"] <= high


def test_without_a_budget_the_largest_gain_is_written(folders, tmp_path):
    metrics = run(folders, tmp_path / "out")
    assert [each["coefficient"] for each in metrics["points"]] == [0, 0.5, 1]
    assert metrics["specialization"] == max(each["specialization"] for each in metrics["points"])


def test_an_adapter_is_written_as_an_adapter(folders, tmp_path):
    metrics = run(folders, tmp_path / "out", "adapter", budget=20.0)
    assert 0 < metrics["coefficient"] < 1
    assert metrics["configuration"]["adapter"] == "lora"
    assert not (tmp_path / "out" / "model.safetensors").exists()
    base = AutoModelForCausalLM.from_pretrained(folders / "reference")
    model = PeftModel.from_pretrained(base, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    found = plain_perplexity(model, folders / "data.jsonl", tokenizer)
    assert metrics["tuned"]["specialized_perplexity"] == pytest.approx(found, rel=0.02)
    assert "PeftModel.from_pretrained" in (tmp_path / "out" / "README.md").read_text()


def test_a_model_in_memory_is_measured_along_the_line(folders, tokenizer):
    blend = open_blend(ModelConfig(str(folders / "reference")), str(folders / "tuned"))
    model = AutoModelForCausalLM.from_pretrained(folders / "tuned")
    rows = read_corpus([str(folders / "data.jsonl")], tokenizer, sequence_length=64).validation
    points = blend_points(model, blend, {"specialized": rows}, [0.5, 1.0])
    assert [each.coefficient for each in points] == [0.5, 1.0]
    for each in points:
        blend.apply(model, each.coefficient)
        found = plain_perplexity(model, folders / "data.jsonl", tokenizer)
        assert each.scores["specialized"].perplexity == pytest.approx(found, rel=1e-5)
    assert points[-1].gain > 0


def test_known_scores_of_the_reference_are_not_measured_again(folders, tokenizer):
    blend = open_blend(ModelConfig(str(folders / "reference")), str(folders / "tuned"))
    model = blend.load()
    rows = read_corpus([str(folders / "data.jsonl")], tokenizer, sequence_length=64).validation
    (start,) = blend_points(model, blend, {"specialized": rows}, [0])
    visited = []
    watched = SimpleNamespace(
        apply=lambda model, c: (visited.append(c), blend.apply(model, c)), load=blend.load
    )
    known = start.scores
    points = blend_points(model, watched, {"specialized": rows}, [0, 1.0], reference=known)
    assert visited == [1.0]
    assert points[0].gain == 0
    assert points[1].gain > 0


def test_a_broken_tuned_model_is_said_to_be_so(folders, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(folders / "tuned")
    model.model.norm.weight.data.fill_(float("nan"))
    model.save_pretrained(tmp_path / "broken")
    with pytest.raises(InputError, match=r"at c = 0\.5 the perplexity .* is nan"):
        run(folders, tmp_path / "out", tmp_path / "broken")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (None, "no point between the two models gains anything, so nothing was written"),
        (
            9.0,
            r"no point with DG <= 9 % gains anything \(at c = 0\.5 S is -.* % and DG -.* %\), so",
        ),
    ],
)
def test_where_nothing_is_gained_nothing_is_written(folders, tmp_path, budget, said):
    """From the tuned model back to where it came from, the specialized text is only lost."""
    with pytest.raises(InputError, match=said):
        run(folders, tmp_path / "out", "reference", reference="tuned", budget=budget)
    assert not (tmp_path / "out").exists()


def test_a_run_that_fails_while_it_writes_leaves_nothing(folders, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "save_frontier", full)
        with pytest.raises(InputError, match=r"^no space left while writing to \S*out: "):
            run(folders, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    run(folders, tmp_path / "out")
    assert (tmp_path / "out" / "metrics.json").exists()


def test_what_a_killed_run_left_is_no_obstacle_but_other_files_are(folders, tmp_path):
    output = tmp_path / "out"
    (output / ".result-incomplete").mkdir(parents=True)
    (output / ".result-incomplete" / "model.safetensors").touch()
    run(folders, output)
    names = {path.name for path in output.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= names
    assert {"frontier.png", "metrics.json"} <= names
    assert ".result-incomplete" not in names
    with pytest.raises(InputError, match="is not empty: name another folder, or empty it"):
        run(folders, output)
    with pytest.raises(InputError, match="is a file: name a folder"):
        run(folders, output / "metrics.json")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"coefficients": [0.5, 1.5]}, "--coefficients are between 0 and 1, got 1.5"),
        ({"budget": 0.0}, "--max_degeneralization is a percentage above 0, got 0.0"),
        ({"budget": float("nan")}, "--max_degeneralization is a percentage above 0, got nan"),
    ],
)
def test_options_that_cannot_be_are_refused(folders, tmp_path, changes, said):
    with pytest.raises(InputError, match=said):
        run(folders, tmp_path / "out", **changes)


def test_general_text_is_asked_for(folders, tmp_path):
    data = DataConfig(data=[str(folders / "data.jsonl")])
    with pytest.raises(InputError, match="--general is missing"):
        blend_models("a", "b", data, tmp_path / "out", coefficients=[0.5])
