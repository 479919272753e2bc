"""Weights as they are published: in the dtype that they came in, and measured as such."""

import logging
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from minifinetuning.evaluation.comparison import comparison
from minifinetuning.models.config import ModelConfig
from minifinetuning.models.loading import adapter_base
from minifinetuning.models.stored_weights import stored_dtype
from minifinetuning.training.callbacks import within_budget
from minifinetuning.training.trainer import MFTTrainer

__all__ = ["rounded"]

logger = logging.getLogger(__name__)


def rounded(
    trainer: MFTTrainer, metrics: dict[str, Any], model: ModelConfig
) -> tuple[dict[str, Any], torch.dtype | None]:
    """The trained weights rounded to the dtype of the starting checkpoint, and measured again.

    Returns the metrics, with what was measured on the rounded weights, and the dtype to write them
    in; None is the one that they are held in. So it is where `model` names a dtype, for an adapter,
    and where rounding would overflow or break the forgetting budget.
    """
    weights = trainer.accelerator.unwrap_model(trainer.model)
    dtype = _wanted(weights, model)
    if dtype is None:
        return metrics, None
    tensors = _floats(weights)
    if _fit(tensors, dtype):
        return _said(metrics, dtype), dtype
    budget = trainer.args.max_degeneralization
    precise = [] if budget is None else [tensor.to("cpu", copy=True) for tensor in tensors]
    _copy([tensor.to(dtype) for tensor in tensors], tensors)
    assert trainer.reference is not None
    figures = comparison(trainer.reference, trainer.scores())
    before = {name: metrics[name] for name in ("specialization", "degeneralization")}
    if precise and not within_budget(figures["degeneralization"], budget):
        _copy(precise, tensors)
        logger.warning(
            "the weights are written in %s, twice the size of the checkpoint's: rounded to %s "
            "their DG would be %.2f %%, above the budget",
            *(_name(weights.dtype), _name(dtype), figures["degeneralization"]),
        )
        return metrics, None
    logger.info(
        "the weights are written in %s, as the checkpoint's were: S is %.2f %% with rounding and "
        "was %.2f %% without (--dtype float32 keeps every digit)",
        *(_name(dtype), figures["specialization"], metrics["specialization"]),
    )
    return _said(metrics | figures | {"before_rounding": before}, dtype), dtype


def _wanted(weights: PreTrainedModel | PeftModel, model: ModelConfig) -> torch.dtype | None:
    """The dtype of the starting checkpoint, where the weights are to get it and can hold it."""
    if model.dtype or isinstance(weights, PeftModel):
        return None
    dtype = stored_dtype(adapter_base(model.model) or model.model)
    if dtype is None or dtype == weights.dtype:
        return None
    limit = torch.finfo(dtype).max
    if any(bool(tensor.abs().max() > limit) for tensor in _floats(weights) if tensor.numel()):
        logger.warning(
            "the weights are written in %s: some are too large for %s, the checkpoint's",
            *(_name(weights.dtype), _name(dtype)),
        )
        return None
    return dtype


def _floats(weights: nn.Module) -> list[Tensor]:
    """Every tensor of floats that is saved, once."""
    found = {id(each): each for each in weights.state_dict(keep_vars=True).values()}
    return [tensor.detach() for tensor in found.values() if tensor.is_floating_point()]


def _fit(tensors: list[Tensor], dtype: torch.dtype) -> bool:
    """Whether rounding changes nothing, as where the starting weights were kept."""
    return all(torch.equal(tensor.to(dtype).to(tensor.dtype), tensor) for tensor in tensors)


def _copy(sources: list[Tensor], targets: list[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)


def _said(metrics: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    configuration = metrics["configuration"] | {"written_in": _name(dtype)}
    return metrics | {"configuration": configuration}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
