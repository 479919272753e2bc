"""Scores of validation texts as JSON, so that cells can be pooled and the reference is shared."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from minifinetuning.evaluation.scores import DocumentEnds, TextScores
from minifinetuning.metrics import SequenceLosses

__all__ = ["scores_from", "scores_record"]


def scores_record(scores: Mapping[str, TextScores]) -> dict[str, Any]:
    """For each text: nats, tokens and document of each part, and what closes its documents."""
    return {
        name: {
            "negative_log_likelihood": score.losses.negative_log_likelihood.tolist(),
            "tokens": score.losses.tokens.tolist(),
            "documents": _listed(score.losses.documents),
            "forward_kl": _listed(score.forward_kl),
            "ends": asdict(score.ends),
            "sequences": score.sequences,
        }
        for name, score in scores.items()
    }


def scores_from(record: Mapping[str, Any]) -> dict[str, TextScores]:
    """What `scores_record` was made of, to the last bit.

    Results of before documents were told apart say nothing of them, and of all positions as text.
    """
    return {
        name: TextScores(
            SequenceLosses(
                torch.tensor(found["negative_log_likelihood"], dtype=torch.float64),
                torch.tensor(found["tokens"]),
                _tensor(found.get("documents"), torch.int64),
            ),
            _tensor(found["forward_kl"], torch.float64),
            DocumentEnds(**found["ends"]) if "ends" in found else DocumentEnds(0.0, 0),
            found.get("sequences"),
        )
        for name, found in record.items()
    }


def _listed(values: Tensor | None) -> list[Any] | None:
    return None if values is None else values.tolist()


def _tensor(values: list[Any] | None, dtype: torch.dtype) -> Tensor | None:
    return None if values is None else torch.tensor(values, dtype=dtype)
