"""The tau that gains most within a budget: how it is found, and what a person is told."""

import json
import math
from types import SimpleNamespace

import pytest
from torch.utils.data import Subset

from minifinetuning.errors import InputError
from minifinetuning.evaluation.scores import text_scores
from minifinetuning.metrics import degeneralization
from minifinetuning.models.config import AdapterConfig, ModelConfig
from minifinetuning.models.loading import load_model
from minifinetuning.training import tau_search as tau_search
from minifinetuning.training.config import MFTConfig
from minifinetuning.training.tau_search import (
    FIRST_TAU,
    Pilot,
    adapt_with_chosen_tau,
    best_tau,
    growth_exponent,
    tau_within,
)
from minifinetuning.training.texts import Texts


@pytest.mark.parametrize("largest", [0.02, 0.1, 0.2, 0.25, 0.3, 0.6, 0.9, 1.5])
def test_pilots_bracket_the_largest_tau_within_the_budget(largest):
    """DG grows with tau, and is 1 % at `largest`."""
    asked = []

    def pilot(tau):
        asked.append(tau)
        return Pilot(tau, specialization=10 * math.sqrt(tau), degeneralization=tau / largest)

    pilots = tau_within(1.0, pilot(FIRST_TAU), pilot)
    assert asked[0] == 0.25
    assert len(asked) == len(set(asked)) == len(pilots) <= 5
    assert [found.tau for found in pilots] == sorted(asked)
    found = best_tau(pilots, 1.0)
    assert found <= largest
    # Finetuning itself is within the budget, or the choice is within a few percent of the best.
    assert found == 1.0 or found > 0.75 * largest


def test_a_budget_that_no_tau_keeps_is_refused():
    pilots = tau_within(1.0, Pilot(0.25, 1.0, 5.25), lambda tau: Pilot(tau, 1.0, 5.0 + tau))
    assert len(pilots) == 5
    with pytest.raises(InputError, match=r"within 1 % \(tau 0.015625 lost 5.02 %"):
        best_tau(pilots, 1.0)


@pytest.mark.parametrize(
    ("half", "whole", "growth"),
    [(0.5, 1.0, 1.0), (0.5, 0.5, 0.0), (1.0, 0.5, 0.0), (0.1, 0.8, 2.0), (-0.1, 0.4, 1.0)],
)
def test_growth_is_that_of_two_pilots_within_reason(half, whole, growth):
    assert growth_exponent(Pilot(0.25, 1.0, half), Pilot(0.25, 2.0, whole)) == growth


def test_the_largest_gain_is_taken_even_at_a_smaller_tau():
    pilots = [Pilot(0.1, 3.0, 0.2), Pilot(0.25, 5.0, 0.5), Pilot(0.5, 4.0, 0.9)]
    assert best_tau(pilots, 1.0) == 0.25


@pytest.fixture
def run(tmp_path, tiny_model, tokenizer, random_sequences, validation_texts):
    """A run on a text of 20 tokens, in which the model forgets what it wrote itself."""
    tiny_model("llama").save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    model = ModelConfig(str(tmp_path / "model"))
    texts = Texts(tokenizer, 16, validation_texts, random_sequences(40, 16, seed=3, vocabulary=20))

    def make(budget, adapter=None, **changes):
        settings = {
            "output_dir": str(tmp_path / "out"),
            "tau": "auto",
            "max_degeneralization": budget,
            "max_steps": 12,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 1,
            "learning_rate": 3e-3,
            "eval_steps": 4,
            "save_steps": 4,
            "bf16": False,
            "use_cpu": True,
            "disable_tqdm": True,
            "save_only_model": True,
        }
        training = MFTConfig(**(settings | changes))
        return adapt_with_chosen_tau(model, AdapterConfig(adapter, 2), texts, training)

    return make


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("adapter", [None, "lora"])
def test_a_run_with_a_chosen_tau_says_what_was_tried(
    run, tmp_path, own_cache, adapter, validation_texts
):
    metrics = run(30.0, adapter, learning_rate=3e-3 if adapter is None else 3e-2)
    search = metrics["tau_search"]
    assert search["pilot_steps"] == 3
    taus = [pilot["tau"] for pilot in search["pilots"]]
    assert 0.25 in taus
    assert taus == sorted(taus)
    assert metrics["configuration"]["tau"] == search["tau"] in taus
    assert metrics["degeneralization"] <= 30.0
    assert search["pilot_budget"] == pytest.approx(30.0 * 0.25 ** search["growth"])
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == metrics
    # One teacher computed for all runs: the training text, once.
    assert len({path.parent for path in own_cache.rglob("part-*.safetensors")}) == 1

    # The check is on the halves that the run has not chosen its step by.
    start, tuned = load_model(str(tmp_path / "model")), load_model(str(tmp_path / "out"))
    general = validation_texts["general"]
    half = Subset(general, range(len(general) // 2, len(general)))
    expected = degeneralization(*(text_scores(model, half).perplexity for model in (start, tuned)))
    assert search["held_out"]["degeneralization"] == pytest.approx(expected, abs=1e-2)
    card = (tmp_path / "out/README.md").read_text()
    assert "## How τ was chosen" in card
    assert "no part in the choice" in card


@pytest.mark.filterwarnings("default")
def test_a_budget_that_cannot_be_kept_leaves_nothing(run, tmp_path):
    with pytest.raises(InputError, match="no tau keeps DG of the pilot runs within"):
        run(1e-6, learning_rate=1e-1)
    assert not (tmp_path / "out/metrics.json").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"max_degeneralization": None}, "--tau auto needs a budget"),
        ({"objective": "ft"}, "--tau auto: ft has no tau"),
        ({"tau": "most"}, "--tau most is no number"),
    ],
)
def test_what_cannot_be_chosen_is_refused(tmp_path, changes, sentence):
    settings = {"output_dir": str(tmp_path), "tau": "auto", "max_degeneralization": 1.0}
    with pytest.raises(InputError, match=sentence):
        MFTConfig(**(settings | changes))


def test_six_runs_are_the_most_that_a_search_takes(run, monkeypatch):
    runs = []

    def pilot(self, tau, steps):
        runs.append((tau, steps))
        return Pilot(tau, 1.0, 1e6)

    monkeypatch.setattr(tau_search._PilotRuns, "pilot", pilot)
    with pytest.raises(InputError, match="no tau keeps DG"):
        run(1.0)
    assert len(runs) == len(set(runs)) == 6


@pytest.mark.filterwarnings("default")
def test_a_reference_that_was_not_prepared_is_warned_of(
    run, monkeypatch, validation_texts, random_sequences, caplog
):
    # What is trained on is the general text itself: DG falls below zero, with all of its interval.
    same = random_sequences(40, 16, seed=1, vocabulary=20)
    for name in ("specialized", "general"):
        monkeypatch.setitem(validation_texts, name, same)
    assert run(30.0)["intervals"]["degeneralization"][1] < 0
    assert "prepare-reference" in caplog.text


def test_a_pilot_is_measured_at_its_end_however_long_the_run_waits(training_arguments, tmp_path):
    full = training_arguments(
        **{"tau": "auto", "max_degeneralization": 1.0, "max_steps": 40, "eval_delay": 30},
        **{"eval_strategy": "steps", "eval_steps": 10},
    )
    pilot = tau_search._pilot_training(full, AdapterConfig(), 0.5, 10, tmp_path)
    assert (pilot.max_steps, pilot.eval_steps, pilot.eval_delay) == (10, 10, 0)


def test_a_pilot_warms_up_in_proportion(training_arguments, tmp_path):
    for warm_up, expected in ((20, 0.5), (0.1, 0.1)):
        full = training_arguments(
            **{"tau": "auto", "max_degeneralization": 1.0, "max_steps": 40},
            **{"warmup_steps": warm_up, "lr_scheduler_type": "cosine"},
        )
        pilot = tau_search._pilot_training(full, AdapterConfig(), 0.5, 10, tmp_path)
        assert pilot.warmup_steps == expected


def test_the_steps_of_a_run_are_of_one_gpu_where_a_process_sees_several(training_arguments):
    args = training_arguments(max_steps=-1, num_train_epochs=3)
    assert args.n_gpu <= 1
    args._n_gpu = 4
    assert tau_search._full_steps(args, SimpleNamespace(train=range(20))) == 30
