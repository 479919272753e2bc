"""A cell's run: train, measure, and write the result, keeping no weights."""

import resource
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from minifinetuning.blending.line import open_blend
from minifinetuning.blending.search import blend_points
from minifinetuning.errors import InputError
from minifinetuning.evaluation.comparison import comparison, measurements
from minifinetuning.evaluation.scores import SPECIALIZED, TextScores
from minifinetuning.lab.compare.cell import Cell, Settings
from minifinetuning.lab.compare.lead import evaluation_record
from minifinetuning.lab.compare.scores import scores_from, scores_record
from minifinetuning.lab.contents import Content, text_contents
from minifinetuning.models.config import AdapterConfig
from minifinetuning.models.precision import autocast
from minifinetuning.models.saving import save_model
from minifinetuning.training.config import ComparisonConfig
from minifinetuning.training.provenance import commit
from minifinetuning.training.run import trained
from minifinetuning.training.texts import Texts
from minifinetuning.training.trainer import MFTTrainer

__all__ = ["CellRun", "measured", "run_cell"]

BLEND_COEFFICIENTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Where a blended method is measured, of the way from the starting weights to the tuned ones."""


def run_cell(cell: Cell, settings: Settings, content: Content) -> None:
    """Train, measure and write the results, whole; no weights are kept.

    The result of `cell.unblended`, which is this very training, is written too unless it is there.
    Raises InputError and TrainingDivergedError as training does, and InputError where the texts
    are not those of `content`.
    """
    texts = settings.texts(cell.method, progress=False, say=_nothing)
    if text_contents(texts) != content.texts:
        raise InputError("the texts were changed while this ran: give the same command again")
    reference = settings.reference(content)
    known = reference.read()
    run = measured(cell, settings, texts, None if known is None else scores_from(known["scores"]))
    if known is None:
        reference.write({"scores": scores_record(run.reference)})
    for of, result in run.results:
        place = of.kept(settings, content)
        if of is cell or place.read() is None:
            place.write(result)


@dataclass(frozen=True)
class CellRun:
    """A cell that was run: the starting model's scores, and a result for each cell served."""

    reference: Mapping[str, TextScores]
    results: list[tuple[Cell, dict[str, Any]]]


def measured(
    cell: Cell,
    settings: Settings,
    texts: Texts,
    reference: dict[str, TextScores] | None = None,
) -> CellRun:
    """Train and measure; the step kept is the one of least specialized perplexity, step 0 included.

    `reference` are the starting model's scores where they are known already.
    """
    folder = settings.working_folder / cell.name
    try:
        return _trained_and_measured(cell, settings, texts, folder, reference)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _trained_and_measured(
    cell: Cell,
    settings: Settings,
    texts: Texts,
    folder: Path,
    known: dict[str, TextScores] | None,
) -> CellRun:
    method = cell.method
    options = settings.training | method.options(settings.training) | _own(cell, settings)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    trainer, metrics = trained(
        settings.model,
        AdapterConfig(method.adapter, settings.rank),
        texts,
        ComparisonConfig(**options, output_dir=str(folder)),
        reference=known,
    )
    metrics |= {
        "trainable_parameters": trainer.get_num_trainable_parameters(),
        "peak_memory_bytes": _peak_memory_bytes(),
        "commit": commit(),
        "texts": text_contents(texts),
    }
    reference = trainer.reference
    assert reference is not None
    kept = [(cell, Measured.of(trainer))]
    if method.blend:
        unblended = [(cell.unblended, kept[0][1])] if cell.unblended else []
        kept = [*unblended, (cell, _blended(trainer, settings, texts, folder / "tuned"))]
    return CellRun(reference, [(of, _result(of, metrics, reference, found)) for of, found in kept])


def _result(
    cell: Cell, metrics: dict[str, Any], reference: Mapping[str, TextScores], measured: "Measured"
) -> dict[str, Any]:
    return metrics | {
        "method": cell.method.name,
        "learning_rate": cell.learning_rate,
        "seeds": [cell.seed],
        **comparison(reference, measured.scores),
        "step": measured.step,
        "history": measured.history or metrics["history"],
        "scores": scores_record(measured.scores),
        "evaluations": measured.evaluations,
    }


def _nothing(summary: str) -> None:
    """The texts were described before the first cell."""


def _own(cell: Cell, settings: Settings) -> dict[str, Any]:
    """What a cell needs to be measured, and not to be kept."""
    cache = settings.training["teacher_cache"]
    return {
        "learning_rate": cell.learning_rate,
        "seed": cell.seed,
        # Many cells ask the same of the same teacher, even where each does so once.
        "teacher_cache": "auto_hidden" if cache == "auto" else cache,
        "max_degeneralization": None,
        "target_specialization": None,
        "resume_from_checkpoint": None,
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "overwrite_output_dir": True,
    }


@dataclass(frozen=True)
class Measured:
    """The step kept and the scores there; `history` where it is not that of the training.

    `evaluations` are the likelihoods at each evaluation, since any of them may be recommended.
    """

    step: int
    scores: Mapping[str, TextScores]
    evaluations: list[dict[str, Any]]
    history: list[dict[str, Any]] | None = None

    @classmethod
    def of(cls, trainer: MFTTrainer) -> "Measured":
        """The evaluation of least specialized perplexity, the earliest of equals."""
        assert trainer.reference is not None
        scores = {0: trainer.reference, **trainer.scores_by_step}
        best = min(sorted(scores), key=lambda step: scores[step][SPECIALIZED].perplexity)
        evaluations = [evaluation_record({"step": step}, found) for step, found in scores.items()]
        return cls(best, scores[best], evaluations)


def _blended(trainer: MFTTrainer, settings: Settings, texts: Texts, folder: Path) -> Measured:
    """The tuned weights of the last step along the line back to the starting ones."""
    assert trainer.reference is not None
    save_model(trainer.accelerator.unwrap_model(trainer.model), folder)
    blend = open_blend(settings.model, str(folder))
    model: Any = blend.load()
    points = blend_points(
        model.to(trainer.args.device),
        blend,
        texts.validation,
        BLEND_COEFFICIENTS,
        reference=trainer.reference,
        batch_size=trainer.args.per_device_eval_batch_size,
        autocast=partial(autocast, trainer.args.device, bool(trainer.args.bf16)),
    )
    best = min(points, key=lambda point: point.scores[SPECIALIZED].perplexity)
    step = int(trainer.state.global_step)
    history = [
        {
            "step": step if point.coefficient else 0,
            "coefficient": point.coefficient,
            **measurements(point.scores, trainer.reference),
        }
        for point in points
    ]
    evaluations = [
        evaluation_record(entry, point.scores) for entry, point in zip(history, points, strict=True)
    ]
    return Measured(step, best.scores, evaluations, history)


def _peak_memory_bytes() -> int:
    """Of the GPU where there is one, else of this process since it began."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
