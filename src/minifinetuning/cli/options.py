"""What each verb may be asked for, as dataclasses: the help lives there, once."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

__all__ = [
    "BlendOptions",
    "ComparisonOptions",
    "DemoOptions",
    "EvaluationOptions",
    "option_types",
]


def option_types(verb: str) -> tuple[Any, ...]:
    """The dataclasses that a verb's options fill, in the order in which the verb takes them."""
    from minifinetuning import config

    types: dict[str, tuple[Any, ...]] = {
        "train": (config.ModelConfig, config.AdapterConfig, config.DataConfig, config.MFTConfig),
        "cache": (config.ModelConfig, config.AdapterConfig, config.DataConfig, config.CacheConfig),
        "compare": (
            config.ModelConfig,
            ComparisonOptions,
            config.DataConfig,
            config.ComparisonConfig,
        ),
        "evaluate": (EvaluationOptions, config.DataConfig),
        "blend": (BlendOptions, config.DataConfig),
        "prepare-reference": (
            config.ModelConfig,
            config.AdapterConfig,
            config.GeneralConfig,
            config.ReferenceConfig,
        ),
        "demo": (DemoOptions,),
    }
    return types[verb]


@dataclass
class ComparisonOptions:
    """What `mft compare` compares; every other option is common to all of it."""

    _argument_group_name: ClassVar[str] = "comparison"

    methods: str = field(
        default="ft,mft,lora@3e-4,lora+mft@3e-4",
        metadata={
            "help": "Objectives, adapters, replay, self_replay, ewc and blend, joined by +; "
            "@3e-4 is a learning rate of its own."
        },
    )
    learning_rates: str | None = field(
        default=None, metadata={"help": "Several, separated by commas, in place of one."}
    )
    seeds: int = field(default=1, metadata={"help": "Runs of each method, from --seed on."})
    rank: int = field(default=8, metadata={"help": "Rank of lora and dora."})


@dataclass
class EvaluationOptions:
    """What `mft evaluate` compares."""

    _argument_group_name: ClassVar[str] = "models"

    model: str = field(metadata={"help": "The tuned model: a folder or a hub id."})
    reference: str = field(metadata={"help": "The model that it was tuned from."})
    output: str | None = field(
        default=None, metadata={"help": "Write the figures to this JSON file too."}
    )
    per_device_eval_batch_size: int = field(default=8, metadata={"help": "Sequences at a time."})
    seed: int = field(default=42, metadata={"help": "Seed of the split: that of the training run."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run Python code that the model's folder brings along."}
    )


@dataclass
class BlendOptions:
    """What `mft blend` moves between, and how far it may go."""

    _argument_group_name: ClassVar[str] = "models"

    reference: str = field(metadata={"help": "The model at c = 0: a folder or a hub id."})
    tuned: str = field(
        metadata={"help": "The model at c = 1, tuned from it: a folder, a hub id or an adapter."}
    )
    output_dir: str = field(metadata={"help": "Where the best point is written."})
    max_degeneralization: float | None = field(
        default=None, metadata={"help": "The most DG that is allowed, in %%."}
    )
    coefficients: list[float] = field(
        default_factory=lambda: [0.2, 0.4, 0.6, 0.8],
        metadata={"help": "The c that are measured beside 0 and 1."},
    )
    per_device_eval_batch_size: int = field(default=8, metadata={"help": "Sequences at a time."})
    seed: int = field(default=42, metadata={"help": "Seed of the split: that of the training run."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run Python code that the model's folder brings along."}
    )


@dataclass
class DemoOptions:
    """What `mft demo` may be asked for."""

    _argument_group_name: ClassVar[str] = "demo"

    data: list[str] | None = field(
        default=None, metadata={"help": "Your own documents in place of MEDLINE."}
    )
    model: str | None = field(
        default=None, metadata={"help": "A model folder or hub id in place of SmolLM2-135M."}
    )
    output_dir: str = field(default="demo", metadata={"help": "Where the results are written."})
    prepare: bool = field(
        default=False, metadata={"help": "Prepare the reference anew in place of the shipped one."}
    )
    steps: int = field(default=40, metadata={"help": "Training steps of about 1,000 tokens."})
