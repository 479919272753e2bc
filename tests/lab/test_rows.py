"""Seeds pooled to one row, and scores that survive JSON to the last bit."""

import json

import pytest
import torch

from minifinetuning.errors import InputError
from minifinetuning.evaluation.scores import TextScores
from minifinetuning.lab.rows import (
    evaluation_record,
    paired_difference,
    pooled_rows,
    scores_from,
    scores_record,
)
from minifinetuning.metrics import SequenceLosses


def scores(shift):
    tokens = torch.tensor([10, 20, 30])
    return {
        name: TextScores(SequenceLosses((3.0 - sign * shift) * tokens.double(), tokens))
        for name, sign in (("specialized", 1), ("general", -0.1))
    }


def result(method, rate, seed, shift):
    history = [{"step": 0, "specialization": 0.0}, {"step": 9, "specialization": 100 * shift}]
    return {
        **{"method": method, "learning_rate": rate, "seeds": [seed], "step": 9, "last_step": 9},
        **{"configuration": {}, "data": {}, "versions": {}, "device": "cpu", "history": history},
        **{"tokens_per_second": 100.0 * seed, "peak_memory_bytes": seed, "cell": {}},
        **{
            "trainable_parameters": 7,
            "specialization": -1.0,
            "scores": scores_record(scores(shift)),
        },
    }


def test_scores_come_back_as_they_were():
    made = scores(0.1234567890123456789)
    again = scores_from(json.loads(json.dumps(scores_record(made))))
    for name, score in made.items():
        likelihood = again[name].losses.negative_log_likelihood
        assert torch.equal(likelihood, score.losses.negative_log_likelihood)
        assert torch.equal(again[name].losses.tokens, score.losses.tokens)
        assert again[name].forward_kl is None


def test_seeds_are_one_row_and_learning_rates_are_several():
    results = [
        result("ft", 1e-5, 1, 0.10),
        result("mft", 1e-5, 1, 0.05),
        result("ft", 1e-5, 2, 0.20),
        result("ft", 3e-5, 1, 0.30),
    ]
    table = pooled_rows(results, scores_record(scores(0.0)))
    assert list(table) == ["ft @ 1e-05", "mft", "ft @ 3e-05"]
    pooled = table["ft @ 1e-05"]
    perplexities = [scores(shift)["specialized"].perplexity for shift in (0.0, 0.10, 0.20)]
    expected = [100 * (1 - tuned / perplexities[0]) for tuned in perplexities[1:]]
    assert pooled["specialization"] == pytest.approx(sum(expected) / 2)
    assert pooled["tuned"]["specialized_perplexity"] == pytest.approx(sum(perplexities[1:]) / 2)
    assert pooled["seeds"] == [1, 2]
    assert pooled["history"][1] == {"step": 9, "specialization": pytest.approx(15.0)}
    assert (pooled["tokens_per_second"], pooled["peak_memory_bytes"]) == (150.0, 2)
    assert "difference" not in pooled
    # On the seed that both have: the first method's other seed has no part in it.
    paired = table["mft"]["difference"]
    assert paired["from"] == "ft @ 1e-05"
    alone = 100 * (1 - scores(0.05)["specialized"].perplexity / perplexities[0])
    assert paired["specialization"] == pytest.approx(alone - expected[0])
    assert paired["intervals"]["specialization"] == pytest.approx([alone - expected[0]] * 2)
    # A single run is reported as it was measured.
    assert table["mft"]["specialization"] == -1.0
    assert not {"cell", "scores"} & table["mft"].keys()


def test_without_a_seed_in_common_nothing_is_paired():
    table = pooled_rows(
        [result("ft", 1e-5, 1, 0.1), result("mft", 1e-5, 2, 0.1)], scores_record(scores(0))
    )
    assert table["mft"]["difference"] is None
    assert pooled_rows([], scores_record(scores(0))) == {}


def run(method, seed, *gains, kept=-1):
    """A result evaluated at steps 1, 2, …, with these shifts of the likelihood a token."""
    steps = [0.0, *gains]
    start = scores(0.0)["specialized"].perplexity
    history = [
        {
            "step": step,
            "specialization": 100 * (1 - scores(gain)["specialized"].perplexity / start),
            "degeneralization": float(step),
        }
        for step, gain in enumerate(steps)
    ]
    evaluations = [
        evaluation_record({"step": step}, scores(gain)) for step, gain in enumerate(steps)
    ]
    made = result(method, 1e-5, seed, steps[kept])
    return made | {
        "history": history,
        "evaluations": evaluations,
        "specialization": history[kept]["specialization"],
        "degeneralization": history[kept]["degeneralization"],
    }


def test_the_one_that_is_recommended_is_held_against_the_next_where_both_would_be_stopped():
    results = [run("ft", 1, 0.10, 0.30), run("mft", 1, 0.15, 0.20), run("kl", 1, 0.01, 0.02)]
    table = pooled_rows(results, scores_record(scores(0.0)), 1.0)
    start = scores(0.0)["specialized"].perplexity
    expected = [100 * (1 - scores(s)["specialized"].perplexity / start) for s in (0.15, 0.10)]
    lead = table["mft"]["lead"]
    assert lead["over"] == "ft"
    assert lead["specialization"] == pytest.approx(expected[0] - expected[1])
    assert lead["intervals"]["specialization"] == pytest.approx([expected[0] - expected[1]] * 2)
    assert not any("lead" in table[name] for name in ("ft", "kl"))
    assert "evaluations" not in table["mft"]
    # With a larger budget others would be stopped later.
    wide = pooled_rows(results, scores_record(scores(0.0)), 2.0)
    assert wide["ft"]["lead"]["over"] == "mft"


def test_results_of_before_know_the_step_that_was_kept():
    results = [run("ft", 1, 0.10, 0.30), run("mft", 1, 0.15, 0.20, kept=1)]
    for one in results:
        del one["evaluations"]
    table = pooled_rows(results, scores_record(scores(0.0)), 2.0)
    # mft would be stopped at step 2, and step 1 was kept.
    assert not any("lead" in row for row in table.values())
    table = pooled_rows([run("ft", 1, 0.3), run("mft", 1, 0.1)], scores_record(scores(0.0)), 2.0)
    assert table["ft"]["lead"]["over"] == "mft"


def test_without_a_seed_in_common_no_one_leads():
    results = [run("ft", 1, 0.10), run("mft", 2, 0.15)]
    assert "lead" not in pooled_rows(results, scores_record(scores(0.0)), 1.0)["mft"]


@pytest.mark.parametrize("ours", [{"texts": {"specialized": "one"}}, {}])
def test_results_of_different_texts_are_not_held_against_each_other(ours):
    first = result("ft", 1e-5, 1, 0.1) | ours
    second = result("mft", 1e-5, 1, 0.1) | {"texts": {"specialized": "two"}}
    reference = scores_record(scores(0.0))
    said = "measured on different specialized validation texts"
    with pytest.raises(InputError, match=said):
        pooled_rows([first, second], reference)
    with pytest.raises(InputError, match=said):
        paired_difference([second], [first], reference)


def test_a_result_is_not_held_against_the_starting_scores_of_another_text():
    reference = scores_record(scores(0.0))
    reference["general"]["tokens"][0] += 1
    with pytest.raises(InputError, match="different general validation texts"):
        pooled_rows([result("ft", 1e-5, 1, 0.1)], reference)
