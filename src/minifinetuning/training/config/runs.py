"""Runs other than training: preparing a reference, comparing methods, filling a cache."""

from dataclasses import dataclass, field
from typing import ClassVar

from minifinetuning.errors import InputError
from minifinetuning.models.precision import bfloat16_pays
from minifinetuning.options import require_ranges
from minifinetuning.teacher import require_known
from minifinetuning.training.config.training import AUTO, MFTConfig

__all__ = ["CacheConfig", "ComparisonConfig", "ReferenceConfig"]


@dataclass
class ReferenceConfig(MFTConfig):
    """Light tuning on general text: one epoch of plain finetuning, stopped once it no longer helps.

    The paper's section 3.1 ("Process"): at most 4M unique tokens of general text, and the
    checkpoint of least validation perplexity. Step 0, the model as given, is a candidate.
    """

    objective: str = field(default="ft", metadata={"help": "What is trained."})
    num_train_epochs: float = field(default=1.0, metadata={"help": "Passes over the general text."})
    max_steps: int = field(default=-1, metadata={"help": "Optimizer steps, in place of epochs."})
    patience: int = field(
        default=3, metadata={"help": "Evaluations without a lower perplexity before it stops."}
    )

    def __post_init__(self) -> None:
        if self.tau == AUTO:
            raise InputError("--tau auto is for `mft train`: give a number to prepare with")
        if None not in (self.save_steps, self.eval_steps) and self.save_steps != self.eval_steps:
            # A step that is not saved cannot be kept, and would only use up patience.
            raise InputError(
                f"--save_steps ({self.save_steps}) and --eval_steps ({self.eval_steps}) must be "
                "the same where a reference is prepared"
            )
        super().__post_init__()

    @property
    def watches_forgetting(self) -> bool:
        """The model that this run departs from is not one to stay close to."""
        return False


@dataclass
class ComparisonConfig(MFTConfig):
    """What all runs of a comparison have in common: they are measured, and none is kept."""

    save_strategy: str | None = field(default="no", metadata={"help": "Nothing is saved."})
    load_best_model_at_end: bool = field(default=False, metadata={"help": "Nothing is loaded."})
    max_degeneralization: float | None = field(
        default=None,
        metadata={
            "help": "The DG in %% that the recommendation keeps to; 1 where nothing is said."
        },
    )


@dataclass
class CacheConfig:
    """What a teacher's cache is made for: the options that must be those of the training."""

    _argument_group_name: ClassVar[str] = "cache"

    teacher_cache: str = field(
        default="auto",
        metadata={
            "help": "hidden, expected, or the folder that it goes to; auto: the smallest step."
        },
    )
    freeze_head: bool = field(
        default=False, metadata={"help": "The training will have --freeze_head."}
    )
    new_data_fraction: float = field(
        default=0.5, metadata={"help": "With --replay: the share of new sequences in training."}
    )
    per_device_train_batch_size: int = field(
        default=4, metadata={"help": "Sequences of a forward pass."}
    )
    bf16: bool | None = field(
        default=None,
        metadata={"help": "bfloat16 autocast; if not said, wherever the device is fast at it."},
    )
    seed: int = field(default=42, metadata={"help": "Seed of the split."})
    list: bool = field(
        default=False, metadata={"help": "Alone: say which caches there are, and how large."}
    )
    prune: bool = field(
        default=False, metadata={"help": "Alone: remove the caches that no run is using."}
    )

    def __post_init__(self) -> None:
        require_ranges(self)
        for name in ("list", "prune"):
            if getattr(self, name):
                raise InputError(f"--{name} stands alone: mft cache --{name}")
        if self.teacher_cache == "none":
            raise InputError(
                "--teacher_cache none leaves nothing to compute: give auto, hidden, expected or "
                "a folder"
            )
        require_known(self.teacher_cache)
        if self.bf16 is None:
            self.bf16 = bfloat16_pays()
