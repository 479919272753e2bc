"""Scores of validation texts as JSON, so that cells can be pooled and the reference is shared."""

from collections.abc import Mapping
from typing import Any

import torch

from minifinetuning.evaluation import TextScores
from minifinetuning.metrics import SequenceLosses

__all__ = ["scores_from", "scores_record"]


def scores_record(scores: Mapping[str, TextScores]) -> dict[str, Any]:
    """For each text the summed negative log-likelihood (nats) and the tokens of each sequence."""
    return {
        name: {
            "negative_log_likelihood": score.losses.negative_log_likelihood.tolist(),
            "tokens": score.losses.tokens.tolist(),
            "forward_kl": None if score.forward_kl is None else score.forward_kl.tolist(),
        }
        for name, score in scores.items()
    }


def scores_from(record: Mapping[str, Any]) -> dict[str, TextScores]:
    """What `scores_record` was made of, to the last bit."""
    return {
        name: TextScores(
            SequenceLosses(
                torch.tensor(found["negative_log_likelihood"], dtype=torch.float64),
                torch.tensor(found["tokens"]),
            ),
            None
            if found["forward_kl"] is None
            else torch.tensor(found["forward_kl"], dtype=torch.float64),
        )
        for name, found in record.items()
    }
