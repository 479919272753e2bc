"""What two models' scores say was gained and lost."""

import json
import math

import pytest
import torch

from minifinetuning.evaluation.comparison import comparison
from minifinetuning.evaluation.scores import TextScores
from minifinetuning.metrics import SequenceLosses


def scores(*means, tokens=10):
    count = torch.full((len(means),), tokens)
    return TextScores(SequenceLosses(torch.tensor(means, dtype=torch.float64) * tokens, count))


def test_the_comparison_says_what_was_gained_and_lost():
    reference = {"specialized": scores(3.0, 2.0), "general": scores(2.0, 1.0, 3.0)}
    tuned = {"specialized": scores(2.9, 1.9), "general": scores(2.01, 1.01, 3.02)}
    found = comparison(reference, tuned)
    s = 100 * (1 - math.exp(-0.1))
    dg = 100 * (math.exp(0.04 / 3) - 1)
    assert found["reference"] == {
        "specialized_perplexity": pytest.approx(math.exp(2.5)),
        "general_perplexity": pytest.approx(math.exp(2)),
    }
    assert found["tuned"]["specialized_perplexity"] == pytest.approx(math.exp(2.4))
    assert found["specialization"] == pytest.approx(s)
    assert found["degeneralization"] == pytest.approx(dg)
    assert found["ratio"] == pytest.approx(dg / s)
    low, high = found["intervals"]["degeneralization"]
    assert 0 < low < dg < high < 4
    json.dumps(found, allow_nan=False)


def test_without_general_text_its_figures_are_missing():
    found = comparison({"specialized": scores(3.0, 2.0)}, {"specialized": scores(2.9, 2.1)})
    assert found["degeneralization"] is None
    assert found["ratio"] is None
    assert found["reference"]["general_perplexity"] is None
    assert found["intervals"]["degeneralization"] is None
    json.dumps(found, allow_nan=False)


def test_an_unchanged_model_has_a_figure_for_everything_but_the_ratio():
    texts = {"specialized": scores(3.0, 2.0), "general": scores(2.0, 2.0)}
    found = comparison(texts, texts)
    assert found["specialization"] == found["degeneralization"] == 0
    assert found["ratio"] is None
    assert found["intervals"]["ratio"] == [None, None]
    json.dumps(found, allow_nan=False)
