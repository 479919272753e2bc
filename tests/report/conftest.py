import math
from collections.abc import Callable
from typing import Any

import pytest

STEPS = (0, 20, 40)


def _summary(source: str) -> dict[str, Any]:
    return {
        "sources": [source],
        "documents": 14_688,
        "train_tokens": 1_000_000,
        "validation_tokens": 100_000,
        "sequence_length": 512,
    }


@pytest.fixture
def result() -> Callable[..., dict[str, Any]]:
    """Makes the content of a metrics.json that gained 6.5 % and lost 0.4 %."""

    def make(method: str = "mft", *, general: bool = True, **changes: Any) -> dict[str, Any]:
        history = [
            {"step": step, "specialization": 6.5 * step / 40, "degeneralization": 0.4 * step / 40}
            for step in STEPS
        ]
        metrics = {
            "method": method,
            "reference": {"specialized_perplexity": 16.1, "general_perplexity": 15.2},
            "tuned": {"specialized_perplexity": 15.05, "general_perplexity": 15.26},
            "specialization": 6.5,
            "degeneralization": 0.4,
            "ratio": 0.0615,
            "intervals": {
                "level": 0.95,
                "specialization": [5.9, 7.1],
                "degeneralization": [0.1, 0.7],
                "ratio": [0.0149, 0.1249],
            },
            "validation": {
                "specialized": {"documents": 84, "sequences": 196, "tokens": 99_123},
                "general": {"documents": 61, "sequences": 190, "tokens": 96_040},
            },
            "forward_kl": 0.0312,
            "step": 40,
            "history": history,
            "data": {
                "specialized": _summary("/home/ada/handbook/medline.jsonl"),
                "general": _summary("wikipedia.jsonl"),
            },
            "configuration": {
                "model": "an-owner/a-model",
                "objective": method.rpartition("+")[2],
                "tau": 0.25,
                "learning_rate": 1e-4,
                "logging_dir": "/home/ada/runs/first",
            },
            "versions": {"torch": "2.13.0"},
            "device": "cpu, 2 threads",
            "seed": 42,
            "seeds": [42],
            "learning_rate": 1e-4,
            "tokens_per_second": 230.0,
            "peak_memory_bytes": None,
            "trainable_parameters": 134_515_008,
        }
        if not general:
            metrics |= {"degeneralization": None, "ratio": None}
            metrics["intervals"] |= {"degeneralization": None, "ratio": None}
            metrics["reference"] |= {"general_perplexity": None}
            metrics["tuned"] |= {"general_perplexity": None}
            metrics["data"] |= {"general": None}
            metrics["validation"] |= {"general": None}
            for entry in history:
                del entry["degeneralization"]
        return metrics | changes

    return make


@pytest.fixture
def trial(result: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Makes a result that went through these (S, DG), ten steps apart.

    The point of the largest finite S is kept, with S ± 0.5, DG ± 0.2 and DG/S ± 0.05 around it.
    """

    def make(method: str, *points: tuple[Any, Any], **changes: Any) -> dict[str, Any]:
        history = [
            {"step": 10 * index, "specialization": gain, "degeneralization": loss}
            for index, (gain, loss) in enumerate(points)
        ]
        whole = [entry for entry in history if _is_finite(entry)]
        kept = max(whole, key=lambda entry: entry["specialization"])
        gain, loss = kept["specialization"], kept["degeneralization"]
        intervals = {
            "level": 0.95,
            "specialization": [gain - 0.5, gain + 0.5],
            "degeneralization": [loss - 0.2, loss + 0.2],
            "ratio": [loss / gain - 0.05, loss / gain + 0.05] if gain else [None, None],
        }
        return result(
            method,
            **{
                **kept,
                "ratio": loss / gain if gain else None,
                "intervals": intervals,
                "history": history,
                "tokens_per_second": 12_345.6,
                **changes,
            },
        )

    return make


def _is_finite(entry: dict[str, Any]) -> bool:
    return all(value is not None and math.isfinite(value) for value in entry.values())


@pytest.fixture
def blend(trial: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """A result that was measured between two models, at c = 0, 0.5 and 1."""
    metrics = trial("ft+blend", (0, 0), (6, 0.9), (9, 3), step=20)
    for entry, coefficient in zip(metrics["history"], (0.0, 0.5, 1.0), strict=True):
        entry |= {"step": 20 if coefficient else 0, "coefficient": coefficient}
    return metrics
