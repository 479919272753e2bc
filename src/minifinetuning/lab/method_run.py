"""One run of a method: trained and measured, its result written, and no weights kept."""

import resource
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from minifinetuning.blending.line import open_blend
from minifinetuning.blending.search import blend_points
from minifinetuning.data.config import DataConfig
from minifinetuning.errors import InputError
from minifinetuning.evaluation.comparison import comparison, measurements
from minifinetuning.evaluation.scores import SPECIALIZED, TextScores
from minifinetuning.lab.cells import Cell, KeptResult, make_once
from minifinetuning.lab.digests import Inputs, text_digests, validation_digests
from minifinetuning.lab.methods import Method
from minifinetuning.lab.rows import evaluation_record, scores_from, scores_record
from minifinetuning.models.config import AdapterConfig, ModelConfig
from minifinetuning.models.precision import autocast
from minifinetuning.models.saving import save_model
from minifinetuning.training.config import ComparisonConfig
from minifinetuning.training.record import MEASURE, commit
from minifinetuning.training.run import trained
from minifinetuning.training.texts import TextNeeds, Texts, read_texts
from minifinetuning.training.trainer import MFTTrainer

__all__ = [
    "WORKING",
    "MethodRun",
    "Settings",
    "chosen_options",
    "run_method",
    "trained_and_measured",
]

WORKING = ".running"
"""The folder for what runs need meanwhile: nothing of it is kept."""

BLEND_COEFFICIENTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Where a blended method is measured, of the way from the starting weights to the tuned ones."""

_IRRELEVANT = {
    "learning_rate",
    "seed",
    "max_degeneralization",
    "overwrite_output_dir",
    "teacher_cache",
    "disable_tqdm",
    "report_to",
    "run_name",
    "logging_steps",
    "logging_strategy",
    "dataloader_num_workers",
    "dataloader_pin_memory",
    "log_level",
}
"""Fields that change no figure, or of which each run has its own."""


def _nothing(summary: str) -> None:
    """The texts were described before the first run."""


@dataclass(frozen=True)
class Settings:
    """What several runs have in common; `training` are fields of their config."""

    model: ModelConfig
    data: DataConfig
    rank: int
    training: dict[str, Any]
    folder: Path

    def starting_scores(self, inputs: Inputs) -> KeptResult:
        """Where the scores of the starting model are kept: they depend on no training."""
        identity = {
            "measure": MEASURE,
            "model": inputs.model,
            "texts": validation_digests(inputs.texts),
            "bf16": self.training["bf16"],
        }
        return KeptResult(self.folder / "reference.json", lambda: identity)

    @property
    def working_folder(self) -> Path:
        """Where runs lay what they need meanwhile."""
        return self.folder / WORKING

    def texts(
        self, method: Method, *, progress: bool = False, say: Callable[[str], None] = _nothing
    ) -> Texts:
        """What a method is trained and measured on: read, or found in the cache."""
        general = self.data.replay or self.data.general
        data = replace(self.data, replay=method.replay_sources(general))
        needs = TextNeeds(
            self.training["seed"],
            new_data_fraction=self.training["new_data_fraction"],
            fisher=general if method.ewc else None,
        )
        return read_texts(self.model, data, needs, progress=progress, say=say, warn=say)


def chosen_options(training: ComparisonConfig) -> dict[str, Any]:
    """The fields that were set, and those that every run looks at."""
    looked_at = [
        "seed",
        "ewc_lambda",
        "new_data_fraction",
        "teacher_cache",
        "bf16",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
    ]
    return {name: getattr(training, name) for name in training.changed + looked_at}


@dataclass(frozen=True)
class MethodRun:
    """A method, its learning rate, and the seed of order, dropout and initial adapters.

    `unblended` is the run of the same comparison that a blended one is on the way.
    """

    method: Method
    learning_rate: float
    seed: int
    unblended: "MethodRun | None" = None

    @property
    def name(self) -> str:
        """Of its file and for a person: `lora+mft@0.0003-seed42`."""
        return f"{self.method.name}@{self.learning_rate:g}-seed{self.seed}"

    @property
    def labels(self) -> dict[str, Any]:
        """What tells its result from the others of the same training."""
        return {
            "method": self.method.name,
            "learning_rate": self.learning_rate,
            "seeds": [self.seed],
        }

    def cell(self, settings: Settings, inputs: Inputs) -> Cell:
        """The run as work to be done."""
        return Cell(
            self.name,
            self.kept(settings, inputs),
            partial(run_method, self, settings, inputs),
            (self.unblended.name,) if self.unblended else (),
        )

    def kept(self, settings: Settings, inputs: Inputs) -> KeptResult:
        """Where its result lies, once it is done, with everything that it depends on."""
        training = {
            name: value for name, value in settings.training.items() if name not in _IRRELEVANT
        }
        identity = {
            "measure": MEASURE,
            "method": self.method.name,
            "learning_rate": self.learning_rate,
            "seed": self.seed,
            "options": self.method.options(settings.training),
            "rank": settings.rank,
            "training": training,
            "model": inputs.model,
            "texts": inputs.texts,
        }
        return KeptResult(settings.folder / "cells" / f"{self.name}.json", lambda: identity)


def run_method(run: MethodRun, settings: Settings, inputs: Inputs) -> None:
    """Train, measure and write the results, whole; no weights are kept.

    The result of `run.unblended`, which is this very training, is written too unless it is there.
    Raises InputError and TrainingDivergedError as training does, and InputError where the texts
    are not those of `inputs`.
    """
    texts = settings.texts(run.method)
    if text_digests(texts) != inputs.texts:
        raise InputError("the texts were changed while this ran: give the same command again")
    kept = run.kept(settings, inputs)

    def make() -> None:
        start = settings.starting_scores(inputs)
        for of, result in trained_and_measured(run, settings, texts, start):
            place = of.kept(settings, inputs)
            if of is run or place.read() is None:
                place.write(result)

    make_once(settings.working_folder / run.name, lambda: kept.read() is not None, make)


def trained_and_measured(
    run: MethodRun, settings: Settings, texts: Texts, start: KeptResult
) -> list[tuple[MethodRun, dict[str, Any]]]:
    """The results of the run, and of the unblended one where it has one.

    Of the step of least specialized perplexity, step 0 included. The starting model's scores are
    taken from `start`, or written there.
    """
    folder = settings.working_folder / run.name
    known = start.read()
    reference = None if known is None else scores_from(known["scores"])
    try:
        trainer, metrics = _trained(run, settings, texts, folder, reference)
        reference = trainer.reference
        assert reference is not None
        found = [(run, _best_step(trainer))]
        if run.method.blend:
            unblended = [(run.unblended, found[0][1])] if run.unblended else []
            found = [*unblended, (run, _best_blend(trainer, settings, texts, folder / "tuned"))]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if start.read() is None:
        start.write({"scores": scores_record(reference)})
    return [(of, metrics | of.labels | best) for of, best in found]


def _trained(
    run: MethodRun,
    settings: Settings,
    texts: Texts,
    folder: Path,
    reference: dict[str, TextScores] | None,
) -> tuple[MFTTrainer, dict[str, Any]]:
    """The trainer after its last step, and what all results of this training have in common."""
    method, cache = run.method, settings.training["teacher_cache"]
    # What a run needs to be measured, and not to be kept.
    own = {
        "learning_rate": run.learning_rate,
        "seed": run.seed,
        # Many runs ask the same of the same teacher, even where each does so once.
        "teacher_cache": "auto_hidden" if cache == "auto" else cache,
        "max_degeneralization": None,
        "target_specialization": None,
        "resume_from_checkpoint": None,
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "overwrite_output_dir": True,
    }
    options = settings.training | method.options(settings.training) | own
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    trainer, metrics = trained(
        settings.model,
        AdapterConfig(method.adapter, settings.rank),
        texts,
        ComparisonConfig(**options, output_dir=str(folder)),
        reference=reference,
    )
    return trainer, metrics | {
        "trainable_parameters": trainer.get_num_trainable_parameters(),
        "peak_memory_bytes": _peak_memory_bytes(),
        "commit": commit(),
        "texts": text_digests(texts),
    }


def _best_step(trainer: MFTTrainer) -> dict[str, Any]:
    """What the step of least specialized perplexity has for itself, the earliest of equals."""
    assert trainer.reference is not None
    scores = {0: trainer.reference, **trainer.scores_by_step}
    best = min(sorted(scores), key=lambda step: scores[step][SPECIALIZED].perplexity)
    return {
        **comparison(trainer.reference, scores[best]),
        "step": best,
        "scores": scores_record(scores[best]),
        "evaluations": [evaluation_record({"step": at}, found) for at, found in scores.items()],
    }


def _best_blend(
    trainer: MFTTrainer, settings: Settings, texts: Texts, folder: Path
) -> dict[str, Any]:
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
    return {
        **comparison(trainer.reference, best.scores),
        "step": step,
        "history": history,
        "scores": scores_record(best.scores),
        "evaluations": [
            evaluation_record(entry, point.scores)
            for entry, point in zip(history, points, strict=True)
        ],
    }


def _peak_memory_bytes() -> int:
    """Of the GPU where there is one, else of this process since it began."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
