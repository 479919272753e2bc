"""One run from start to end: a model and texts in, a checkpoint with its card and figures out."""

import logging
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback

from minifinetuning.errors import InputError
from minifinetuning.evaluation.comparison import comparison
from minifinetuning.evaluation.scores import TextScores
from minifinetuning.files import write_atomically
from minifinetuning.models.adapters import adapter_config
from minifinetuning.models.causal import causal_model
from minifinetuning.models.config import AdapterConfig, ModelConfig
from minifinetuning.models.loading import adapter_base, is_adapter, load_model
from minifinetuning.models.saving import save_model
from minifinetuning.models.weights import stored_dtype
from minifinetuning.report import about_unprepared, model_card
from minifinetuning.training.callbacks import Stopwatch
from minifinetuning.training.config import MFTConfig
from minifinetuning.training.folder import begin_run, published, remove_checkpoints, run_folder
from minifinetuning.training.record import run_record
from minifinetuning.training.resuming import asked_checkpoint
from minifinetuning.training.selection import within_budget
from minifinetuning.training.texts import Texts
from minifinetuning.training.trainer import MFTTrainer

__all__ = ["adapt", "publish", "rounded", "trained"]

logger = logging.getLogger(__name__)


def adapt(
    model: ModelConfig,
    adapter: AdapterConfig,
    texts: Texts,
    training: MFTConfig,
    *,
    reference: dict[str, TextScores] | None = None,
    keep_checkpoints: bool = True,
) -> tuple[dict[str, Any], dict[str, TextScores]]:
    """Train, evaluate, and write the result into `training.output_dir`.

    The folder then holds what `AutoModelForCausalLM.from_pretrained` (or `PeftModel`) loads, the
    tokenizer, a model card and metrics.json, all renamed into place once they are whole. Returns
    the content of metrics.json, and the scores of the starting model: given to the next run as
    `reference`, they save measuring it again. Checkpoints stay in the folder if `keep_checkpoints`.
    Raises InputError before training starts where the run cannot be, TrainingDivergedError where
    the loss stops being finite.
    """
    with run_folder(training, model, adapter):
        trainer, metrics = trained(model, adapter, texts, training, reference=reference)
        metrics = rounded(trainer, metrics, model)
        publish(trainer, metrics, model_card(metrics), keep_checkpoints=keep_checkpoints)
    assert trainer.reference is not None
    return metrics, trainer.reference


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
    student = load_model(model)
    uses_cache = student.config.use_cache
    adapts = adapter_config(adapter.adapter, student, adapter.rank) if adapter.adapter else None
    stopwatch = Stopwatch()
    trainer = MFTTrainer(
        model=student,
        args=training,
        train_dataset=texts.train,
        replay_dataset=texts.replay,
        fisher_dataset=texts.fisher,
        eval_dataset=texts.validation,
        processing_class=texts.tokenizer,
        peft_config=adapts,
        callbacks=[stopwatch, *(callbacks or [])],
        reference=reference,
    )
    if trainer.is_world_process_zero():
        resumes = asked_checkpoint(training.resume_from_checkpoint) is not False
        begin_run(Path(str(training.output_dir)), resume=resumes)
    trainer.train(training.resume_from_checkpoint)
    # Trainer turns the cache off for training; the model that people load should generate with it.
    causal_model(trainer.model).config.use_cache = uses_cache
    return trainer, run_record(trainer, stopwatch, model, adapter, texts)


def rounded(trainer: MFTTrainer, metrics: dict[str, Any], model: ModelConfig) -> dict[str, Any]:
    """Round the trained weights to the dtype of the starting checkpoint, and measure them again.

    Returns the metrics, with what was measured on the rounded weights, and with the dtype to write
    them in as `written_in` of the configuration. That is the one that they are held in, and nothing
    is rounded, where `model` names a dtype, for an adapter, and where rounding would overflow or
    break the forgetting budget.
    """
    weights = trainer.accelerator.unwrap_model(trainer.model)
    dtype = _dtype_to_round_to(weights, model)
    if dtype is None:
        return metrics
    held, narrow = (str(each).removeprefix("torch.") for each in (weights.dtype, dtype))
    configuration = metrics["configuration"] | {"written_in": narrow}
    tensors = _floats(weights)
    if all(torch.equal(tensor.to(dtype).to(tensor.dtype), tensor) for tensor in tensors):
        # As where the starting weights were kept.
        return metrics | {"configuration": configuration}
    budget = trainer.args.max_degeneralization
    precise = [] if budget is None else [tensor.to("cpu", copy=True) for tensor in tensors]
    _copy([tensor.to(dtype) for tensor in tensors], tensors)
    assert trainer.reference is not None
    figures = comparison(trainer.reference, trainer.scores())
    if precise and not within_budget(figures["degeneralization"], budget):
        _copy(precise, tensors)
        logger.warning(
            f"the weights are written in {held}, twice the size of the checkpoint's: rounded to "
            f"{narrow} their DG would be {figures['degeneralization']:.2f} %, above the budget"
        )
        return metrics
    logger.info(
        f"the weights are written in {narrow}, as the checkpoint's were: S is "
        f"{figures['specialization']:.2f} % with rounding and was "
        f"{metrics['specialization']:.2f} % without (--dtype float32 keeps every digit)"
    )
    before = {name: metrics[name] for name in ("specialization", "degeneralization")}
    return metrics | figures | {"before_rounding": before, "configuration": configuration}


def _dtype_to_round_to(
    weights: PreTrainedModel | PeftModel, model: ModelConfig
) -> torch.dtype | None:
    """That of the starting checkpoint, where the weights are to get it and it can hold them."""
    if model.dtype or isinstance(weights, PeftModel):
        return None
    dtype = stored_dtype(adapter_base(model.model) or model.model)
    if dtype is None or dtype == weights.dtype:
        return None
    limit = torch.finfo(dtype).max
    if any(bool(tensor.abs().max() > limit) for tensor in _floats(weights) if tensor.numel()):
        held, narrow = (str(each).removeprefix("torch.") for each in (weights.dtype, dtype))
        logger.warning(
            f"the weights are written in {held}: some are too large for {narrow}, the checkpoint's"
        )
        return None
    return dtype


def _floats(weights: nn.Module) -> list[Tensor]:
    """Every tensor of floats that is saved, once."""
    found = {id(each): each for each in weights.state_dict(keep_vars=True).values()}
    return [tensor.detach() for tensor in found.values() if tensor.is_floating_point()]


def _copy(sources: list[Tensor], targets: list[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)


def publish(
    trainer: MFTTrainer, metrics: dict[str, Any], card: str, *, keep_checkpoints: bool = True
) -> None:
    """Write model, tokenizer, card and metrics.json, all of them or none.

    Weights are written in the `written_in` of the configuration, where they are held in another
    dtype. A negative DG is warned of: then S and DG are not what they seem.
    """
    if sentence := about_unprepared({metrics["method"]: metrics}):
        logger.warning("%s", sentence)
    if not trainer.is_world_process_zero():
        return
    folder = Path(str(trainer.args.output_dir))
    model = trainer.accelerator.unwrap_model(trainer.model)
    narrow = metrics["configuration"].get("written_in")
    dtype = None if narrow is None else getattr(torch, narrow)
    with published(folder) as staged:
        save_model(model, staged, trainer.processing_class, dtype=dtype)
        write_atomically(staged / "README.md", card)
        write_atomically(staged / "metrics.json", metrics)
    if not keep_checkpoints:
        remove_checkpoints(folder)
