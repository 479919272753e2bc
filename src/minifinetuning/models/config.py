"""Which model is adapted, what its weights are held in, and the adapter that is trained."""

from dataclasses import dataclass, field
from typing import ClassVar

from minifinetuning.options import option, require_choice, require_ranges

__all__ = ["ADAPTERS", "DTYPES", "WITH_RANK", "AdapterConfig", "ModelConfig"]

DTYPES = ("float32", "bfloat16", "float16", "auto")
"""What weights may be held in."""

ADAPTERS = ("lora", "dora", "ia3")
"""The adapters that may be trained."""

WITH_RANK = ("lora", "dora")
"""Those that have one."""


@dataclass
class ModelConfig:
    """The model that is adapted."""

    _argument_group_name: ClassVar[str] = "model"

    model: str = field(metadata={"help": "A model folder, a .gguf file or a hub id."})
    dtype: str | None = option(
        None,
        "What weights are held and written in: float32, bfloat16, float16 or auto; "
        "else held in float32, and written as the model's were.",
    )
    trust_remote_code: bool = option(False, "Run Python code that the model's folder brings along.")
    tokenizer: str | None = option(
        None, "Where the tokenizer is, if not with the model, as with OpenELM."
    )

    def __post_init__(self) -> None:
        if self.dtype is not None:
            require_choice("dtype", self.dtype, DTYPES)


@dataclass
class AdapterConfig:
    """An adapter in place of full finetuning."""

    _argument_group_name: ClassVar[str] = "adapter"

    adapter: str | None = option(
        None, "lora, dora or ia3, on all attention and MLP projections; else full."
    )
    rank: int = option(8, "Rank of lora and dora.")

    def __post_init__(self) -> None:
        require_ranges(self)
        if self.adapter is not None:
            require_choice("adapter", self.adapter, ADAPTERS)
