"""An adapter from its folder onto its base model: merged into the weights, or beside them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from minifinetuning.errors import InputError
from minifinetuning.models.causal import agree, causal_model, evaluating, probe_inputs

__all__ = ["attached", "changes_head", "is_quantized", "merged"]


def attached(model: PreTrainedModel, adapter: Path) -> PeftModel:
    """The adapter in this folder beside the weights of its base model, as it was trained.

    Raises InputError for an adapter that is not part of the decoder.
    """
    with _peft_without_advice():
        wrapped = PeftModel.from_pretrained(model, str(adapter))
    if wrapped.active_peft_config.is_prompt_learning:
        raise InputError(
            f"the adapter in {adapter} is of the kind {wrapped.active_peft_config.peft_type.value}"
            ", which works on the prompt: give one of LoRA, DoRA or IA3"
        )
    return wrapped


def merged(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """The model with the adapter in this folder merged into its weights, ready to be trained.

    Embeddings that are tied to the output head part from it where the adapter changes them
    differently. Raises InputError where the merged model would not be the adapted one: a quantised
    base, replicated layers, which share their weights, and whatever gives other logits.
    """
    if is_quantized(model):
        raise _refused(adapter, "its base model is quantised, and merging would round it again")
    wrapped = attached(model, adapter)
    if getattr(wrapped.active_peft_config, "layer_replication", None):
        raise _refused(adapter, "it replicates layers, and the copies share their weights")
    inputs = probe_inputs(wrapped)
    expected = _logits(wrapped, inputs)
    is_tied = _untie(wrapped)
    with _peft_without_advice():
        whole: PreTrainedModel = wrapped.merge_and_unload()
    if is_tied:
        _tie_again(whole)
    if not agree(_logits(whole, inputs), expected, whole.dtype):
        raise _refused(adapter, "the merged model would give other logits than the adapted one")
    return whole.requires_grad_(True)


def is_quantized(model: PreTrainedModel) -> bool:
    """Whether the weights are held in fewer bits, with scales: what is added to them is rounded."""
    return bool(getattr(model, "is_quantized", False)) or (
        getattr(model.config, "quantization_config", None) is not None
    )


def changes_head(model: PeftModel) -> bool:
    """Whether the adapter is on the output head, or holds a head of its own."""
    return _is_adapted(causal_model(model).get_output_embeddings())


def _untie(wrapped: PeftModel) -> bool:
    """Give the output head weights of its own where it is tied and one of the two is adapted.

    Otherwise both would be merged into the same weights. Returns whether that was done.
    """
    inner = causal_model(wrapped)
    embeddings, head = inner.get_input_embeddings(), inner.get_output_embeddings()
    base = _base_layer(head)
    if base.weight is not _base_layer(embeddings).weight:
        return False
    if not (_is_adapted(embeddings) or _is_adapted(head)):
        return False
    base.weight = nn.Parameter(base.weight.detach().clone())
    _say_tied(inner, tied=False)
    return True


def _tie_again(whole: PreTrainedModel) -> None:
    """One weight for embeddings and head, as before, where the adapter left them the same."""
    embeddings: Any = whole.get_input_embeddings()
    head: Any = whole.get_output_embeddings()
    if torch.equal(embeddings.weight, head.weight):
        head.weight = embeddings.weight
        _say_tied(whole, tied=True)


def _say_tied(model: PreTrainedModel, *, tied: bool) -> None:
    said: Any = model
    for config in (said.config, said.config.get_text_config()):
        config.tie_word_embeddings = tied
    said.all_tied_weights_keys = said.get_expanded_tied_weights_keys(all_submodels=False)


def _is_adapted(layer: nn.Module) -> bool:
    return isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper)


def _base_layer(layer: Any) -> Any:
    if isinstance(layer, BaseTunerLayer):
        return layer.get_base_layer()
    return layer.original_module if isinstance(layer, AuxiliaryTrainingWrapper) else layer


def _logits(model: PreTrainedModel | PeftModel, inputs: dict[str, Tensor]) -> Tensor:
    with evaluating(model):
        logits: Tensor = causal_model(model)(**inputs, use_cache=False).logits
    return logits


def _refused(adapter: Path, reason: str) -> InputError:
    return InputError(
        f"the adapter in {adapter} cannot be merged into its base model: {reason}; give a whole "
        "model, or train another adapter on the base model"
    )


@contextmanager
def _peft_without_advice() -> Iterator[None]:
    """Without PEFT's advice about tied embeddings: what it asks for is done here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings=True.*", append=False)
        yield
