"""Along the line between a reference and a tuned model, to the best point within a budget."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from minifinetuning.blending.line import Blend, open_blend
from minifinetuning.data.config import DataConfig
from minifinetuning.data.sequences import Sequences
from minifinetuning.errors import InputError
from minifinetuning.evaluation.comparison import comparison
from minifinetuning.evaluation.scores import TextScores, scores_by_text
from minifinetuning.files import write_atomically
from minifinetuning.models.causal import check_halves
from minifinetuning.models.config import ModelConfig
from minifinetuning.models.loading import HELD_IN
from minifinetuning.models.precision import autocast as bfloat16_autocast
from minifinetuning.models.saving import save_model
from minifinetuning.report import blend_card, save_frontier
from minifinetuning.training.folder import new_folder, published
from minifinetuning.training.texts import TextNeeds, read_texts

__all__ = ["BlendPoint", "best_point", "blend_models", "blend_points", "next_coefficient"]

logger = logging.getLogger(__name__)

REFINEMENTS = 4
"""Halvings of the step that crosses the budget: from fifths to eightieths."""


@dataclass(frozen=True)
class BlendPoint:
    """One c on the line: the scores there by text, and their `comparison` with the reference's."""

    coefficient: float
    scores: Mapping[str, TextScores]
    changes: Mapping[str, Any]

    @property
    def gain(self) -> float:
        """S in %."""
        return float(self.changes["specialization"])

    @property
    def loss(self) -> float:
        """DG in %; nan without general text."""
        lost = self.changes["degeneralization"]
        return math.nan if lost is None else float(lost)

    def __str__(self) -> str:
        lost = "" if math.isnan(self.loss) else f" and DG {self.loss:.2f} %"
        return f"at c = {self.coefficient:g} S is {self.gain:.2f} %{lost}"


def blend_models(
    reference: str,
    tuned: str,
    data: DataConfig,
    output: Path,
    *,
    coefficients: Sequence[float],
    budget: float | None = None,
    batch_size: int = 8,
    seed: int = 42,
    dtype: str | None = None,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Measure theta_A + c (theta_B - theta_A) along c and write the best point to `output`.

    That is the point of the largest S with DG <= `budget` (%), or of the largest S. 0 and 1 are
    measured whether `coefficients` hold them or not; beside the budget the grid is refined (see
    `next_coefficient`). Weights are held in `dtype`, or in float32, and each point is measured
    rounded to what it would be written in. `output` then holds an ordinary checkpoint or adapter,
    the tokenizer, a model card, frontier.png, and metrics.json, whose content is returned. Raises
    InputError for input that cannot be used, before any evaluation, and where nothing gains
    anything within the budget: then nothing is written.
    """
    _require_options(data, coefficients, budget)
    start = ModelConfig(reference, dtype=dtype, trust_remote_code=trust_remote_code)
    with new_folder(output, {"reference": reference, "tuned": tuned}, data):
        return _blended(
            start,
            tuned,
            data,
            output,
            coefficients=coefficients,
            budget=budget,
            batch_size=batch_size,
            seed=seed,
        )


def _blended(
    reference: ModelConfig,
    tuned: str,
    data: DataConfig,
    output: Path,
    *,
    coefficients: Sequence[float],
    budget: float | None,
    batch_size: int,
    seed: int,
) -> dict[str, Any]:
    blend = open_blend(reference, tuned)
    texts = read_texts(reference, data, TextNeeds(seed, with_train=False))
    model: Any = blend.load()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    check_halves(model.to(device))
    measured = partial(
        blend_points,
        model,
        blend,
        texts.validation,
        batch_size=batch_size,
        autocast=partial(bfloat16_autocast, device),
    )
    points = _explored(measured, coefficients, budget)
    best = best_point(points, budget)
    if best.gain <= 0:
        raise InputError(_nothing_gained(points, budget))
    blend.apply(model, best.coefficient)
    configuration = {
        "model": tuned,
        "reference": reference.model,
        "max_degeneralization": budget,
        "dtype": reference.dtype or HELD_IN,
    }
    metrics = {
        "method": "blend",
        **best.changes,
        "coefficient": best.coefficient,
        "points": [{"coefficient": point.coefficient, **point.changes} for point in points],
        "data": texts.summary(),
        "configuration": configuration | _adapter(model),
        "seed": seed,
    }
    _write(output, model, blend.dtype, texts.tokenizer, metrics)
    return metrics


def blend_points(
    model: PreTrainedModel | PeftModel,
    blend: Blend,
    texts: Mapping[str, Sequences],
    coefficients: Iterable[float],
    *,
    reference: Mapping[str, TextScores] | None = None,
    batch_size: int = 8,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> list[BlendPoint]:
    """Move `model` to each coefficient in turn and score every text there.

    It stays where the last scores were taken. `reference`, the scores at c = 0, saves taking them
    again. Raises InputError where a perplexity is not finite.
    """

    def scores(coefficient: float) -> dict[str, TextScores]:
        blend.apply(model, coefficient)
        return scores_by_text(
            model,
            texts,
            batch_size=batch_size,
            autocast=autocast,
            description=f"c = {coefficient:g}",
        )

    reference = reference or scores(0.0)
    points = []
    for coefficient in coefficients:
        found = scores(coefficient) if coefficient else reference
        _require_finite(found, coefficient)
        point = BlendPoint(coefficient, found, comparison(reference, found))
        logger.info("%s", point)
        points.append(point)
    return points


def best_point(points: Sequence[BlendPoint], budget: float | None) -> BlendPoint:
    """The point of the largest S with DG <= `budget` (%), the nearest to the reference of equals.

    c = 0, where S = DG = 0, must be among them.
    """
    return max((p for p in points if _is_within(p, budget)), key=lambda point: point.gain)


def next_coefficient(points: Sequence[BlendPoint], budget: float | None) -> float | None:
    """The c that is worth measuring next: midway from the best point to one beyond the budget.

    None where the next point after the best one is within the budget too: S has passed its largest
    value there, and going further gains nothing. `points` are in order of c.
    """
    best = best_point(points, budget)
    for point, following in pairwise(points):
        if point is best and not _is_within(following, budget):
            return (point.coefficient + following.coefficient) / 2
    return None


def _explored(
    measured: Callable[..., list[BlendPoint]], coefficients: Iterable[float], budget: float | None
) -> list[BlendPoint]:
    """The grid, and the points between it that are worth measuring, in order of c."""
    points = measured(sorted({0.0, *coefficients, 1.0}))
    for _ in range(REFINEMENTS):
        between = next_coefficient(points, budget)
        if between is None:
            break
        points += measured([between], reference=points[0].scores)
        points.sort(key=lambda point: point.coefficient)
    return points


def _is_within(point: BlendPoint, budget: float | None) -> bool:
    return budget is None or point.loss <= budget


def _require_finite(scores: Mapping[str, TextScores], coefficient: float) -> None:
    for name, score in scores.items():
        if not math.isfinite(score.perplexity):
            raise InputError(
                f"at c = {coefficient:g} the perplexity of the {name} text is "
                f"{score.perplexity}: the tuned model is broken"
            )


def _require_options(data: DataConfig, coefficients: Sequence[float], budget: float | None) -> None:
    if not data.general:
        raise InputError(
            "--general is missing: a blend trades the gain for what is forgotten, and that is "
            "measured on general text"
        )
    for coefficient in coefficients:
        if not 0 <= coefficient <= 1:
            raise InputError(f"--coefficients are between 0 and 1, got {coefficient}")
    if budget is not None and not budget > 0:
        raise InputError(f"--max_degeneralization is a percentage above 0, got {budget}")


def _adapter(model: PreTrainedModel | PeftModel) -> dict[str, str]:
    """For metrics.json, as a training run with an adapter says it."""
    if not isinstance(model, PeftModel):
        return {}
    return {"adapter": str(model.active_peft_config.peft_type.value).lower()}


def _nothing_gained(points: Sequence[BlendPoint], budget: float | None) -> str:
    if budget is None:
        return "no point between the two models gains anything, so nothing was written"
    return f"no point with DG <= {budget:g} % gains anything ({points[1]}), so nothing was written"


def _write(
    output: Path,
    model: PreTrainedModel | PeftModel,
    dtype: torch.dtype,
    tokenizer: PreTrainedTokenizerBase,
    metrics: dict[str, Any],
) -> None:
    with published(output) as staged:
        save_model(model, staged, tokenizer, dtype=dtype)
        _draw(metrics, staged / "frontier.png")
        write_atomically(staged / "README.md", blend_card(metrics))
        write_atomically(staged / "metrics.json", metrics)


def _draw(metrics: dict[str, Any], path: Path) -> None:
    """The points as the picture of a run draws its evaluations: the start is where step is 0."""
    points = [{**point, "step": int(point["coefficient"] > 0)} for point in metrics["points"]]
    name = f"c = {metrics['coefficient']:g}"
    budget = metrics["configuration"]["max_degeneralization"]
    save_frontier({name: {**metrics, "step": 1, "history": points}}, path, budget=budget)
