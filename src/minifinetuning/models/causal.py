"""The two halves of a causal language model: the decoder, and the output head on its states."""

from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from minifinetuning.errors import InputError
from minifinetuning.ops import Head

__all__ = [
    "causal_model",
    "check_halves",
    "embedding_rows",
    "evaluating",
    "freeze_head",
    "hidden_states",
    "output_head",
    "predicting",
]


def causal_model(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The transformers model itself, out of a PEFT wrapper (its adapters stay in place)."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(inner, PreTrainedModel)
    return inner


def hidden_states(model: PreTrainedModel | PeftModel, inputs: Mapping[str, Any]) -> Tensor:
    """(B, T, H): what the output head would get for `input_ids` and `attention_mask` (B, T)."""
    decoder = causal_model(model).get_decoder()
    outputs = decoder(
        input_ids=inputs["input_ids"],
        attention_mask=inputs.get("attention_mask"),
        position_ids=inputs.get("position_ids"),
        use_cache=False,
    )
    states: Tensor = outputs.last_hidden_state
    return states


def predicting(states: Tensor) -> Tensor:
    """(B * (T - 1), H) of (B, T, H): the states that predict a token of their own sequence."""
    return states[:, :-1].flatten(0, 1)


def output_head(model: PreTrainedModel | PeftModel) -> Head:
    """The output head as the op takes it: its live parameters, with the model's scale and soft cap.

    Raises InputError where the head is not one linear layer, as with an adapter on it.
    """
    inner = causal_model(model)
    layer = inner.get_output_embeddings()
    if type(layer) is not nn.Linear:
        raise InputError(
            f"the output head of {type(inner).__name__} is no plain linear layer but a "
            f"{type(layer).__module__}.{type(layer).__name__}: leave it out of the adapter's "
            "target modules and of modules_to_save"
        )
    config = inner.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0
    scale /= getattr(config, "logits_scaling", None) or 1.0
    return Head(
        weight=layer.weight,
        bias=layer.bias,
        scale=float(scale),
        soft_cap=getattr(config, "final_logit_softcapping", None),
    )


def embedding_rows(model: nn.Module) -> int:
    """The number of token ids that the model knows; 0 where its weights are not all here."""
    known: Any = model
    weight: Tensor = known.get_input_embeddings().weight
    return len(weight) if weight.dim() > 1 else 0


def freeze_head(model: PreTrainedModel | PeftModel) -> None:
    """Leave the output head as it is, and with it the embeddings where they are tied to it."""
    causal_model(model).get_output_embeddings().requires_grad_(False)


@contextmanager
def evaluating(model: nn.Module) -> Any:
    """Evaluation mode (no dropout), no gradients; afterwards each module's own mode is back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def check_halves(model: PreTrainedModel | PeftModel) -> None:
    """Compare head(decoder(x)) with the model's own logits on a few tokens.

    Some architecture may do to its logits what `output_head` does not know: better to refuse it now
    than to train towards the wrong distribution. Raises InputError where the two differ.
    """
    inner = causal_model(model)
    inputs = probe_inputs(model)
    with evaluating(model):
        expected = inner(**inputs, use_cache=False).logits.float()
        got = output_head(model).logits(hidden_states(model, inputs)[0])
    if not agree(got, expected[0], inner.dtype):
        difference = float((got - expected[0]).abs().max())
        raise InputError(
            f"the logits of {type(inner).__name__} are not those of its output head on its decoder "
            f"(they differ by {difference:.3g}): this architecture is not supported"
        )


def probe_inputs(model: PreTrainedModel | PeftModel) -> dict[str, Tensor]:
    """A few arbitrary tokens, (1, 16), on the model's device: enough to compare two forwards."""
    inner = causal_model(model)
    vocabulary = inner.config.get_text_config().vocab_size
    tokens = torch.arange(1, 17, device=inner.device) * 37 % vocabulary
    return {"input_ids": tokens[None], "attention_mask": torch.ones_like(tokens)[None]}


def agree(got: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Whether two results are the same up to the rounding of a forward in `dtype`."""
    tolerance = 1e-3 if dtype == torch.float32 else 5e-2
    scale = expected.float().abs().max().clamp(min=1e-6)
    return bool((got.float() - expected.float()).abs().max() <= tolerance * scale)
