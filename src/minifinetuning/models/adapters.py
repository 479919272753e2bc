"""Adapters on all attention and MLP projections, found from the model's structure."""

from peft import IA3Config, LoraConfig, PeftConfig
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from minifinetuning.errors import InputError
from minifinetuning.models.config import WITH_RANK

__all__ = ["adapter_config", "projections"]

_ATTENTION_MARKS = ("attn", "attention")
_MLP_MARKS = ("mlp", "feed_forward", "ffn")
_OTHER_SENSES = ("vision", "visual", "audio")
_KEY_AND_VALUE_NAMES = ("k_proj", "v_proj", "key", "value", "qkv_proj", "query_key_value", "c_attn")


def adapter_config(adapter: str, model: PreTrainedModel, rank: int = 8) -> PeftConfig:
    """The PEFT configuration of an adapter on all attention and MLP projections of `model`.

    As in the paper's section 3.1: rank 8 for LoRA and DoRA where nothing is said; IA3 has no rank
    and scales keys, values and what enters the MLP's last projection. LoRA's alpha is twice the
    rank. A vision or audio tower is left out: text does not pass through it. Raises InputError for
    a rank below 1 and where no projections are found.
    """
    attention, mlp = projections(model)
    towers = any(_is_inside(path, _OTHER_SENSES) for path, _ in model.named_modules())
    excluded = rf".*({'|'.join(_OTHER_SENSES)}).*" if towers else None
    transposed = any(isinstance(layer, Conv1D) for _, layer in _linear_layers(model))
    if adapter == "ia3":
        outputs = [_mlp_output(model, attention)]
        inputs = [name for name in attention if name in _KEY_AND_VALUE_NAMES]
        return IA3Config(
            task_type="CAUSAL_LM",
            target_modules=inputs + outputs,
            exclude_modules=excluded,
            feedforward_modules=outputs,
            fan_in_fan_out=transposed,
        )
    if adapter not in WITH_RANK:
        raise InputError(f"--adapter {adapter} is not known: choose one of lora, dora, ia3")
    if rank < 1:
        raise InputError(f"--rank must be at least 1, got {rank}")
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=2 * rank,
        target_modules=attention + mlp,
        exclude_modules=excluded,
        use_dora=adapter == "dora",
        fan_in_fan_out=transposed,
    )


def projections(model: PreTrainedModel) -> tuple[list[str], list[str]]:
    """The names of the linear layers inside attention blocks, and of those inside MLPs, sorted.

    Raises InputError where either is empty.
    """
    attention, mlp = set(), set()
    for path, _ in _linear_layers(model):
        if _is_inside(path, _MLP_MARKS):
            mlp.add(path.split(".")[-1])
        elif _is_inside(path, _ATTENTION_MARKS):
            attention.add(path.split(".")[-1])
    if not attention or not mlp:
        raise InputError(
            f"no attention and MLP projections were found in {type(model).__name__}: "
            "pass a peft_config to MFTTrainer instead of --adapter"
        )
    return sorted(attention), sorted(mlp)


def _is_inside(path: str, marks: tuple[str, ...]) -> bool:
    """Whether a module above the one at `path` bears one of the marks in its name."""
    parents = path.lower().split(".")[:-1]
    return any(mark in parent for parent in parents for mark in marks)


def _linear_layers(model: PreTrainedModel) -> list[tuple[str, nn.Module]]:
    return [
        (path, layer)
        for path, layer in model.named_modules()
        if isinstance(layer, nn.Linear | Conv1D) and not _is_inside(path, _OTHER_SENSES)
    ]


def _mlp_output(model: PreTrainedModel, attention: list[str]) -> str:
    """The MLP's way back to the residual stream: the last linear layer that is defined in it.

    Named with its parent where an attention projection has the same name, as in GPT-2.
    """
    inside = [path for path, _ in _linear_layers(model) if _is_inside(path, _MLP_MARKS)]
    parent, name = inside[-1].split(".")[-2:]
    return f"{parent}.{name}" if name in attention else name
