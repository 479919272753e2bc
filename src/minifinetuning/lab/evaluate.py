"""Measure a tuned model against its reference: `mft evaluate`."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from minifinetuning.data.config import DataConfig
from minifinetuning.data.tokenizers import tokenizer_difference
from minifinetuning.errors import InputError
from minifinetuning.evaluation.comparison import comparison
from minifinetuning.evaluation.scores import TextScores, scores_by_text
from minifinetuning.files import write_atomically
from minifinetuning.models.causal import causal_model
from minifinetuning.models.config import ModelConfig
from minifinetuning.models.loading import (
    HELD_IN,
    load_as_started,
    load_as_trained,
    load_tokenizer,
    own_tokenizer,
)
from minifinetuning.models.merging import is_quantized
from minifinetuning.models.precision import autocast
from minifinetuning.teacher.live import FrozenModel, Teacher
from minifinetuning.training.folder import require_writable
from minifinetuning.training.texts import TextNeeds, read_texts
from minifinetuning.training.writable import naming_what_fails

__all__ = ["evaluate_models"]


def evaluate_models(
    tuned: ModelConfig,
    reference: ModelConfig,
    data: DataConfig,
    *,
    batch_size: int = 8,
    seed: int = 42,
    output: Path | None = None,
) -> dict[str, Any]:
    """S, DG, their ratio and KL(p_T || p_S) of a tuned model against its reference.

    The validation sides of the texts are those of a training run with the same texts, budgets and
    seed. Both models are loaded as such a run has them: a tuned adapter beside its base model, one
    that is the reference merged into it. The figures are returned and, where `output` is given,
    written there as JSON. Raises InputError for models or texts that cannot be used, and for two
    tokenizers, since perplexities over other tokens say nothing.
    """
    if output is not None:
        require_writable(output, tuned, {"reference": reference.model}, data)
    _require_one_tokenizer(tuned, reference)
    texts = read_texts(reference, data, TextNeeds(seed, with_train=False))
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def loaded(config: ModelConfig, load: Callable[..., Any]) -> Any:
        model = load(config)
        # Quantised weights lie where they were loaded to.
        return model if is_quantized(causal_model(model)) else model.to(device)

    def scores(model: Any, name: str, teacher: Teacher | None = None) -> dict[str, TextScores]:
        return scores_by_text(
            model,
            texts.validation,
            batch_size=batch_size,
            autocast=partial(autocast, device),
            teachers={} if teacher is None else dict.fromkeys(texts.validation, teacher),
            description=f"evaluating {name}",
        )

    # A model against itself has gained nothing, not even by merging.
    is_itself = _place(tuned) == _place(reference)
    start = loaded(reference, load_as_trained if is_itself else load_as_started)
    teacher = FrozenModel(start)
    before = scores(start, "reference")
    after = scores(start if is_itself else loaded(tuned, load_as_trained), "tuned", teacher)
    metrics = {
        "method": "tuned",
        **comparison(before, after),
        "data": texts.summary(),
        "configuration": {
            "model": tuned.model,
            "reference": reference.model,
            "dtype": tuned.dtype or HELD_IN,
        },
        "seed": seed,
    }
    if output is not None:
        with naming_what_fails(output.parent):
            write_atomically(output, metrics)
    return metrics


def _place(config: ModelConfig) -> Any:
    """Where a model lies, and what its weights are held in there."""
    path = Path(config.model).expanduser()
    return path.resolve() if path.exists() else config.model, config.dtype


def _require_one_tokenizer(tuned: ModelConfig, reference: ModelConfig) -> None:
    """Refuse two models that read the same text as other tokens."""
    theirs = load_tokenizer(reference)
    ours = own_tokenizer(tuned)
    # A folder without one did not change it.
    difference = None if ours is None else tokenizer_difference(theirs, ours)
    if difference is not None:
        raise InputError(
            f"--model {tuned.model} and --reference {reference.model} have different tokenizers "
            f"({difference}): their perplexities are over other tokens and cannot be compared; "
            "give the model that it was tuned from as --reference"
        )
