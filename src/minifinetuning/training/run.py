"""One run, whole: texts and a model in, a checkpoint with its model card and metrics.json out."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from minifinetuning.errors import InputError
from minifinetuning.evaluation.comparison import comparison
from minifinetuning.evaluation.scores import GENERAL, SPECIALIZED, TextScores
from minifinetuning.files import write_atomically
from minifinetuning.models.adapters import adapter_config
from minifinetuning.models.causal import causal_model
from minifinetuning.models.config import AdapterConfig, ModelConfig
from minifinetuning.models.loading import HELD_IN, is_adapter, load_model
from minifinetuning.models.saving import save_model
from minifinetuning.report import about_unprepared, model_card
from minifinetuning.training.callbacks import Stopwatch
from minifinetuning.training.config import MFTConfig
from minifinetuning.training.folder import begin_run, published, run_folder
from minifinetuning.training.provenance import device_name, versions
from minifinetuning.training.resuming import asked_checkpoint
from minifinetuning.training.rounding import rounded
from minifinetuning.training.texts import Texts
from minifinetuning.training.trainer import MFTTrainer

__all__ = [
    "Adaptation",
    "adapt",
    "publish_result",
    "trained",
    "warn_of_unprepared_reference",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adaptation:
    """A finished run: the content of its metrics.json, and the reference's scores for the next."""

    metrics: dict[str, Any]
    reference: dict[str, TextScores]


def adapt(
    model: ModelConfig,
    adapter: AdapterConfig,
    texts: Texts,
    training: MFTConfig,
    *,
    reference: dict[str, TextScores] | None = None,
) -> Adaptation:
    """Train, evaluate, and write the result into `training.output_dir`.

    The folder then holds what `AutoModelForCausalLM.from_pretrained` (or `PeftModel`) loads, the
    tokenizer, a model card and metrics.json, all renamed into place once they are whole.
    `reference` saves measuring the starting model where the caller has its scores already.
    Raises InputError before training starts where the run cannot be, TrainingDivergedError where
    the loss stops being finite.
    """
    with run_folder(training, model, adapter):
        trainer, metrics = trained(model, adapter, texts, training, reference=reference)
        metrics, dtype = rounded(trainer, metrics, model)
        publish_result(trainer, metrics, model_card(metrics), dtype)
    warn_of_unprepared_reference(metrics)
    assert trainer.reference is not None
    return Adaptation(metrics, trainer.reference)


def trained(
    model: ModelConfig,
    adapter: AdapterConfig,
    texts: Texts,
    training: MFTConfig,
    *,
    callbacks: list[TrainerCallback] | None = None,
    reference: dict[str, TextScores] | None = None,
) -> tuple[MFTTrainer, dict[str, Any]]:
    """The trainer after its run, holding the kept weights, and the content of metrics.json."""
    if adapter.adapter and is_adapter(model.model):
        raise InputError(
            f"--adapter {adapter.adapter}: {model.model} is an adapter itself, and what is written "
            "would name its base model as the one to load: merge it first "
            "(load_model(...).save_pretrained(folder) in Python)"
        )
    student = load_model(model.model, dtype=model.dtype, trust_remote_code=model.trust_remote_code)
    uses_cache = student.config.use_cache
    stopwatch = Stopwatch()
    trainer = MFTTrainer(
        model=student,
        args=training,
        train_dataset=texts.train,
        replay_dataset=texts.replay,
        fisher_dataset=texts.fisher,
        eval_dataset=texts.validation,
        processing_class=texts.tokenizer,
        peft_config=(
            adapter_config(adapter.adapter, student, adapter.rank) if adapter.adapter else None
        ),
        callbacks=[stopwatch, *(callbacks or [])],
    )
    trainer.reference = reference
    if trainer.is_world_process_zero():
        resumes = asked_checkpoint(training.resume_from_checkpoint) is not False
        begin_run(Path(str(training.output_dir)), resume=resumes)
    trainer.train(training.resume_from_checkpoint)
    # Trainer turns the cache off for training; the model that people load should generate with it.
    causal_model(trainer.model).config.use_cache = uses_cache
    return trainer, _metrics(trainer, stopwatch, model, adapter, texts)


def _metrics(
    trainer: MFTTrainer,
    stopwatch: Stopwatch,
    model: ModelConfig,
    adapter: AdapterConfig,
    texts: Texts,
) -> dict[str, Any]:
    """The content of metrics.json."""
    assert trainer.reference is not None
    training = trainer.args
    method = f"{adapter.adapter}+{training.objective}" if adapter.adapter else training.objective
    held_in = model.dtype or HELD_IN
    configuration = {"model": model.model, "dtype": held_in, **training.summary()}
    if adapter.adapter:
        configuration |= {"adapter": adapter.adapter, "rank": adapter.rank}
    return {
        "method": method,
        **comparison(trainer.reference, trainer.kept_scores()),
        "step": trainer.kept_step,
        "last_step": trainer.state.global_step,
        "stopped": trainer.budget.reason,
        "history": _history(trainer),
        "data": texts.summary(),
        "configuration": configuration,
        "full_configuration": training.to_dict(),
        "versions": versions(),
        "device": device_name(trainer.args.device),
        "teacher": None if trainer.cache_plan is None else trainer.cache_plan.summary(),
        "seed": training.seed,
        "tokens_per_second": _tokens_per_second(stopwatch, training, texts.sequence_length),
    }


def _history(trainer: MFTTrainer) -> list[dict[str, Any]]:
    """One entry per evaluation, the reference as step 0."""
    names = ("specialization", "degeneralization", "ratio", "forward_kl")
    texts = tuple(f"{name}_perplexity" for name in (SPECIALIZED, GENERAL))
    assert trainer.reference is not None
    start: dict[str, Any] = {"step": 0, "specialization": 0.0}
    start |= {f"{name}_perplexity": score.perplexity for name, score in trainer.reference.items()}
    if GENERAL in trainer.reference:
        start["degeneralization"] = 0.0
    entries = [start]
    for log in trainer.state.log_history:
        if "eval_specialization" in log and log["step"] > 0:
            values = {name: log.get(f"eval_{name}") for name in (*names, *texts)}
            entries.append(
                {"step": log["step"]} | {k: v for k, v in values.items() if v is not None}
            )
    return entries


def _tokens_per_second(
    stopwatch: Stopwatch, training: MFTConfig, sequence_length: int
) -> float | None:
    """Training tokens a second over all processes; None in a resumed run that did nothing."""
    tokens = stopwatch.steps * training.sequences_per_step * sequence_length
    return tokens / stopwatch.seconds if tokens else None


def publish_result(
    trainer: MFTTrainer, metrics: dict[str, Any], card: str, dtype: torch.dtype | None = None
) -> None:
    """Write model, tokenizer, card and metrics.json, all of them or none.

    `dtype` is what the weights are written in, where they are held in another.
    """
    if not trainer.is_world_process_zero():
        return
    with published(Path(str(trainer.args.output_dir))) as staged:
        model = trainer.accelerator.unwrap_model(trainer.model)
        tokenizer: Any = trainer.processing_class
        save_model(model, staged, tokenizer, dtype=dtype)
        write_atomically(staged / "README.md", card)
        write_atomically(staged / "metrics.json", metrics)


def warn_of_unprepared_reference(metrics: dict[str, Any]) -> None:
    """Say so where DG is negative: then S and DG are not what they seem."""
    sentence = about_unprepared({metrics["method"]: metrics})
    if sentence:
        logger.warning("%s", sentence)
