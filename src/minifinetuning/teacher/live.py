"""The unfinetuned model as teacher: a copy, the adapters switched off, or not yet trained."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Protocol

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from minifinetuning.errors import InputError
from minifinetuning.models.causal import (
    agree,
    causal_model,
    evaluating,
    hidden_states,
    output_head,
    predicting,
    probe_inputs,
)
from minifinetuning.ops import ExpectedEmbedding, Head, TeacherStates

__all__ = [
    "AdaptersOff",
    "FrozenCopy",
    "FrozenModel",
    "ModelTeacher",
    "StartingModel",
    "Teacher",
    "starting_teacher",
    "teacher_of",
]


class Teacher(Protocol):
    """Whatever says what the starting model predicts."""

    def outputs(self, inputs: Mapping[str, Any]) -> TeacherStates | ExpectedEmbedding:
        """The teacher at the B * (T - 1) predicting positions of a batch, as the op takes it.

        `inputs` holds `input_ids` and `attention_mask` (B, T), and what else a batch brings along.
        """
        ...


class ModelTeacher:
    """A teacher that computes: `hidden_states` and `head` are a model's, frozen in some way."""

    @property
    def head(self) -> Head:
        """The starting model's output head (V_T, H_T), out of the graph."""
        raise NotImplementedError

    def hidden_states(self, inputs: Mapping[str, Any]) -> Tensor:
        """(B, T, H_T) for `input_ids` and `attention_mask` (B, T): no dropout, no gradient."""
        raise NotImplementedError

    def outputs(self, inputs: Mapping[str, Any]) -> TeacherStates:
        return TeacherStates(predicting(self.hidden_states(inputs)), self.head)


def teacher_of(model: PreTrainedModel | PeftModel) -> ModelTeacher:
    """The teacher of a student about to be trained: without a second copy where adapters allow it.

    Raises InputError where the adapters cannot be switched off faithfully (see `AdaptersOff`).
    """
    return AdaptersOff(model) if isinstance(model, PeftModel) else FrozenCopy(model)


def starting_teacher(model: PreTrainedModel | PeftModel) -> "AdaptersOff | StartingModel":
    """The teacher of a student for as long as it is not trained: never a copy.

    Raises InputError where the adapters cannot be switched off faithfully (see `AdaptersOff`).
    """
    return AdaptersOff(model) if isinstance(model, PeftModel) else StartingModel(model)


class FrozenModel(ModelTeacher):
    """A model held still: no gradients, evaluation mode. It is taken as it is, not copied."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.requires_grad_(False).eval()

    @property
    def head(self) -> Head:
        return output_head(self.model).detached()

    def hidden_states(self, inputs: Mapping[str, Any]) -> Tensor:
        with torch.no_grad():
            return hidden_states(self.model, inputs)


class FrozenCopy(FrozenModel):
    """A copy of the weights as they are now, for full finetuning.

    The copy keeps an output head of its own where the student's is tied to its embeddings. It is
    taken from the model in memory, never loaded again by name: a name may point elsewhere tomorrow.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(deepcopy(model))


class StartingModel(ModelTeacher):
    """A model that is about to be trained, while it is still its own teacher: no copy at all."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    @property
    def head(self) -> Head:
        return output_head(self.model).detached()

    def hidden_states(self, inputs: Mapping[str, Any]) -> Tensor:
        with evaluating(self.model):
            return hidden_states(self.model, inputs)


class AdaptersOff(ModelTeacher):
    """The student with its adapters switched off: no second copy of the weights.

    Raises InputError, with the reason, where switching off does not give the starting model back:
    trained biases, initialisations that rewrite the base weights (PiSSA, OLoRA, CorDA, LoftQ),
    adapters merged into the weights, adapters that already changed the model (resumed, or
    initialised away from zero), and prompt-learning adapters, which are not part of the decoder.
    """

    def __init__(self, model: PeftModel) -> None:
        self.model = model
        reason = _unfaithful(model)
        if reason:
            raise InputError(f"the adapter cannot serve as its own teacher: {reason}")
        inputs = probe_inputs(model)
        with evaluating(model):
            switched_on = hidden_states(model, inputs)
        if not agree(self.hidden_states(inputs), switched_on, causal_model(model).dtype):
            raise InputError(
                "the adapter cannot serve as its own teacher: with it switched off the model is "
                "not the one that training starts from; merge it into the weights first "
                "(merge_and_unload), or start from a fresh adapter"
            )

    @property
    def head(self) -> Head:
        return output_head(self.model).detached()

    def hidden_states(self, inputs: Mapping[str, Any]) -> Tensor:
        with evaluating(self.model), self.model.disable_adapter():
            return hidden_states(self.model, inputs)


def _unfaithful(model: PeftModel) -> str | None:
    """Why switching off the adapters of `model` would not give the base model back, if so."""
    for config in model.peft_config.values():
        if config.is_prompt_learning:
            return f"{config.peft_type} works on the prompt: use lora, dora or ia3"
        bias = getattr(config, "bias", "none")
        if bias != "none":
            return f'it trains biases (bias="{bias}"), which stay when it is off: use bias="none"'
        init = getattr(config, "init_lora_weights", True)
        if isinstance(init, str) and init.startswith(("pissa", "olora", "corda", "loftq")):
            return f'init_lora_weights="{init}" rewrites the base weights: use the default'
    if any(getattr(module, "merged", False) for module in model.modules()):
        return "it is merged into the weights: unmerge it first"
    return None
