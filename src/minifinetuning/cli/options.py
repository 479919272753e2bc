"""What each verb may be asked for, as dataclasses: the help lives there, once."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from minifinetuning.options import option, require_choice

__all__ = ["IGNORED", "RARE", "option_types"]

Numbers = list[float]
"""By this name where a field called `list` hides the type's own."""


def option_types(verb: str) -> tuple[Any, ...]:
    """The dataclasses that a verb's options fill, in the order in which the verb takes them."""
    from minifinetuning.data.config import DataConfig, GeneralConfig
    from minifinetuning.models.config import AdapterConfig, ModelConfig
    from minifinetuning.training.caching import CacheConfig
    from minifinetuning.training.config import ComparisonConfig, MFTConfig
    from minifinetuning.training.reference import ReferenceConfig
    from minifinetuning.training.written import WriteConfig

    types: dict[str, tuple[Any, ...]] = {
        "train": (ModelConfig, AdapterConfig, DataConfig, MFTConfig),
        "cache": (ModelConfig, AdapterConfig, DataConfig, CacheConfig),
        "write": (ModelConfig, DataConfig, WriteConfig),
        "compare": (
            ModelConfig,
            ComparisonOptions,
            DataConfig,
            ComparisonConfig,
            ExecutorOptions,
        ),
        "evaluate": (EvaluationOptions, DataConfig),
        "blend": (BlendOptions, DataConfig),
        "prepare-reference": (ModelConfig, AdapterConfig, GeneralConfig, ReferenceConfig),
        "reproduce": (ReproductionOptions, ExecutorOptions),
        "demo": (DemoOptions,),
    }
    return types[verb]


_CHECKPOINTS = ("save_steps", "save_strategy", "save_total_limit")
_HOW_THEY_ARE_SAVED = ("save_only_model", "save_on_each_node", "enable_jit_checkpoint")
_BEST_STEP = ("load_best_model_at_end", "metric_for_best_model", "greater_is_better")
_HUB = ("push_to_hub", "hub_model_id", "hub_strategy", "hub_always_push")
_ADDED_REPLAY = ("replay_share", "replay_weight")
_REPLAY = ("replay_objective", "new_data_fraction", *_ADDED_REPLAY)
_NOT_ON_ONE_TEXT = ("max_degeneralization", *_REPLAY, "ewc_lambda")

_SCRIPTS = dict.fromkeys(
    ("do_train", "do_eval", "do_predict"), "it is for scripts of transformers, leave it out"
)
_EACH_METHODS = "each method has its own, name it in --methods"
_NO_REPLAY = {"replay": "nothing is trained, so nothing is replayed"}

IGNORED: dict[str, dict[str, str]] = {
    "train": _SCRIPTS,
    "compare": {
        **_SCRIPTS,
        "objective": _EACH_METHODS,
        "replay_objective": _EACH_METHODS,
        **dict.fromkeys(
            _ADDED_REPLAY, "its methods replay in a part of each step, give --new_data_fraction"
        ),
        "target_specialization": "every method runs to its end, so that all are compared",
        "resume_from_checkpoint": "the same command goes on with the cells that are not done",
        **dict.fromkeys(
            _CHECKPOINTS + _HOW_THEY_ARE_SAVED + _BEST_STEP + _HUB,
            "its runs are measured, and none is kept",
        ),
    },
    "evaluate": _NO_REPLAY,
    "blend": _NO_REPLAY,
    "prepare-reference": {
        **_SCRIPTS,
        **dict.fromkeys(_NOT_ON_ONE_TEXT, "a reference is prepared on one text alone"),
    },
}
"""What a verb decides by itself or has no use for: the reason, by the name of the option.

Options that only have to be those of another run, so that texts are split alike, are not among
them.
"""

RARE = {"eval_strategy", "save_strategy", "save_total_limit", "logging_steps", "disable_tqdm"}
RARE |= {*_BEST_STEP, "remove_unused_columns", "logging_nan_inf_filter"}
"""Options of MFTConfig's own that a verb's help leaves out, as it does what it inherits."""


@dataclass
class ComparisonOptions:
    """What `mft compare` compares; every other option is common to all of it."""

    _argument_group_name: ClassVar[str] = "comparison"

    methods: str = option(
        "ft,mft,lora@3e-4,lora+mft@3e-4",
        "Objectives, adapters, replay, self_replay, ewc and blend, joined by +; "
        "@3e-4 is a learning rate of its own.",
    )
    learning_rates: str | None = option(None, "Several, separated by commas, in place of one.")
    seeds: int = option(1, "Runs of each method, from --seed on.")
    rank: int = option(8, "Rank of lora and dora.")


@dataclass
class EvaluationOptions:
    """What `mft evaluate` compares."""

    _argument_group_name: ClassVar[str] = "models"

    model: str = field(metadata={"help": "The tuned model: a folder or a hub id."})
    reference: str = field(metadata={"help": "The model that it was tuned from."})
    output: str | None = option(None, "Write the figures to this JSON file too.")
    per_device_eval_batch_size: int = option(8, "Sequences at a time.")
    seed: int = option(42, "Seed of the split: that of the training run.")
    dtype: str | None = option(
        None,
        "What weights are held in, float32 if not said: for figures of a training run "
        "with --dtype, the same.",
    )
    trust_remote_code: bool = option(False, "Run Python code that the model's folder brings along.")


@dataclass
class BlendOptions:
    """What `mft blend` moves between, and how far it may go."""

    _argument_group_name: ClassVar[str] = "models"

    reference: str = field(metadata={"help": "The model at c = 0: a folder or a hub id."})
    tuned: str = field(
        metadata={"help": "The model at c = 1, tuned from it: a folder, a hub id or an adapter."}
    )
    output_dir: str = field(metadata={"help": "Where the best point is written."})
    max_degeneralization: float | None = option(None, "The most DG that is allowed, in %%.")
    coefficients: list[float] = field(
        default_factory=lambda: [0.2, 0.4, 0.6, 0.8],
        metadata={"help": "The c that are measured beside 0 and 1."},
    )
    per_device_eval_batch_size: int = option(8, "Sequences at a time.")
    seed: int = option(42, "Seed of the split: that of the training run.")
    dtype: str | None = option(
        None,
        "What weights are held and written in; else held in float32, and written in "
        "the wider dtype of the two.",
    )
    trust_remote_code: bool = option(False, "Run Python code that the model's folder brings along.")


@dataclass
class ReproductionOptions:
    """What `mft reproduce` runs of the paper, and where."""

    _argument_group_name: ClassVar[str] = "paper"

    list: bool = option(False, "Say what there is, and run nothing.")
    dry_run: bool = option(False, "Say what would run and what it would take; run nothing.")
    table: int | None = option(None, "A table of the paper, 2 to 10.")
    figure: int | None = option(None, "A figure: 2, 4, 5, 6 or 7.")
    model: str | None = option(
        None, "A model of the paper; tiny; or a folder or hub id in place of one."
    )
    dataset: str | None = option(
        None, "PubMed, Pile of Law or OpenWebMath; a table of one dataset is run on this one."
    )
    method: str | None = option(None, "A method as the tables name it: FT, MFT, LoRA+MFT, …")
    values: Numbers | None = option(
        None, "Of what is varied only these: τ, ν, rank, or share of the text."
    )
    protocol: str | None = option(
        None, "paper (section 3.1), small (a CPU) or tiny; tiny for the model tiny."
    )
    corpora: str | None = option(
        None, "A folder of local texts, pubmed.jsonl and so on, in place of the hub."
    )
    reference: str | None = option(None, "A prepared reference of --model, in place of making one.")
    output_dir: str = option("results", "Where results are written.")
    overwrite_output_dir: bool = option(False, "Run cells again that are done.")
    dtype: str = option("float32", "What weights are held in.")
    per_device_train_batch_size: int | None = option(
        None, "Sequences of a forward pass; a step stays the protocol's."
    )
    gradient_checkpointing: bool = option(
        False, "Recompute activations in the backward pass: less memory, more time."
    )
    bf16: bool | None = option(
        None, "bfloat16 autocast; if not said, wherever the device is fast at it."
    )
    seed: int = option(42, "Seed of the split, the order and dropout.")


@dataclass
class ExecutorOptions:
    """Where the cells of a verb run, and how many at a time."""

    _argument_group_name: ClassVar[str] = "where cells run"

    executor: str = option("local", "local, on this machine; or ray, on a cluster.")
    gpus_per_cell: float | None = option(
        None,
        "GPUs of a cell, as many cells at once as there are GPUs for. If not said: "
        "local, one cell after another; with ray 1 where there are any.",
    )
    cpus_per_cell: float | None = option(None, "With ray: CPUs of a cell, 1 if not said.")
    ray_address: str | None = option(None, "The Ray cluster; else this machine's.")

    def __post_init__(self) -> None:
        require_choice("executor", self.executor, ["local", "ray"])


@dataclass
class DemoOptions:
    """What `mft demo` may be asked for."""

    _argument_group_name: ClassVar[str] = "demo"

    data: list[str] | None = option(None, "Your own documents in place of MEDLINE.")
    model: str | None = option(None, "A model folder or hub id in place of SmolLM2-135M.")
    output_dir: str = option("demo", "Where the results are written.")
    prepare: bool = option(False, "Prepare the reference anew in place of the shipped one.")
    steps: int | None = option(
        None,
        "Training steps of about 1,000 tokens. Default: 40, or as many as this machine "
        "does in some minutes.",
    )
