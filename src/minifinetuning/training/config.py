"""`MFTConfig`: transformers' TrainingArguments with a few fields and the paper's defaults."""

from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Self

import torch
from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig

from minifinetuning.data.mixing import replayed_per_new
from minifinetuning.errors import InputError
from minifinetuning.models.precision import bfloat16_pays
from minifinetuning.objectives import OBJECTIVES, has_tau, needs_teacher
from minifinetuning.options import option, require_choice, require_ranges
from minifinetuning.teacher import require_known
from minifinetuning.training.trainer_options import (
    GREATER_IS_BETTER,
    require_best_step,
    require_known_names,
    require_usable_trainer,
    require_warm_up_within,
)

__all__ = ["AUTO", "REPLAY_SHARE", "SELECTION", "ComparisonConfig", "MFTConfig"]

AUTO = "auto"
"""The tau that has still to be chosen."""

SELECTION = "eval_selection_perplexity"
"""What the step that is kept is chosen by; infinite where a step cannot be kept."""

REPLAY_SHARE, REPLAY_WEIGHT = 0.25, 1.0
"""Of replay that is added, where only the other one is said."""

_EVALUATIONS = 0.1
"""Share of the steps between two evaluations, each with a checkpoint, where nothing is said."""

_OPEN = {
    "eval_strategy": "steps",
    "save_strategy": "steps",
    "eval_steps": _EVALUATIONS,
    "save_steps": _EVALUATIONS,
    "greater_is_better": False,
    "gradient_checkpointing": False,
    "activation_checkpointing": False,
}
"""What a field whose default is None comes to, where nothing else decides."""

_FOLLOWING = {"torch_compile", "torch_compile_backend"}
_FOLLOWING |= {"replay_share", "replay_weight", "replay_objective"}
_FOLLOWING |= {"dataloader_num_workers", "dataloader_persistent_workers"}
"""Other fields that may follow from what was set, or from the device."""

_ALWAYS_SAID = (
    "objective",
    "tau",
    "learning_rate",
    "lr_scheduler_type",
    "max_steps",
    "seed",
    "bf16",
)
"""Fields that metrics.json tells of every run, whatever they are."""

_REFUSALS = (ValueError, TypeError, KeyError, ImportError, OSError, NotImplementedError)
"""What TrainingArguments lets through for settings that it cannot use."""


@dataclass
class MFTConfig(TrainingArguments):
    """`TrainingArguments` with the objective, the forgetting budget, and the paper's defaults.

    1000 steps of 16 sequences with AdamW and tau = 0.25 (section 3.1); ten evaluations on the way,
    and the checkpoint of least specialized perplexity is kept. The paper does not name its learning
    rate and schedule: the defaults here come from trials described in docs/defaults.md, and are the
    same for every objective. Raises InputError for values that cannot be.

    What was set when it was made is in `given`, by name; what nobody has set is not.
    """

    _argument_group_name: ClassVar[str] = "training"

    objective: str = option("mft", f"What is trained: {', '.join(OBJECTIVES)}.")
    tau: float | str = option(
        0.25, "Target correction in [0, 1]: 0 stays closest to the model, 1 is ft; or auto."
    )
    kl_weight: float = option(0.1, "Weight of KL(p_T || p_S) in kl, asft and mask_the_target.")
    new_data_fraction: float = option(
        0.5, "With --replay, where it is not added: the share of each step that is new."
    )
    replay_share: float | None = option(
        None, "Add replay to whole steps: sequences for each new one (0.25 with a weight alone)."
    )
    replay_weight: float | None = option(
        None,
        "Add replay to whole steps: the weight of its mean loss (1 with a share alone).",
    )
    replay_objective: str | None = option(
        None, "What replayed text trains: as the new, or distillation where it is added."
    )
    ewc_lambda: float = option(
        0.0, "Weight of elastic weight consolidation; its Fisher: general text."
    )
    max_degeneralization: float | None = option(
        None, "Stop once DG exceeds this many %%, and keep what came before."
    )
    target_specialization: float | None = option(None, "Stop once S has reached this many %%.")
    teacher_cache: str = option(
        "auto", "What is kept of the teacher: auto, none, hidden, expected, or in a folder."
    )
    freeze_head: bool = option(False, "Leave the output head (and embeddings tied to it) as it is.")

    # Defaults of TrainingArguments that minifinetuning sets differently.
    output_dir: str | None = option(None, "Where the result is written.")
    overwrite_output_dir: bool = option(False, "Replace a previous run in output_dir.")
    resume_from_checkpoint: str | None = option(
        None, "True for the last whole checkpoint, or a folder."
    )
    max_steps: int = option(1000, "Optimizer steps.")
    num_train_epochs: float = option(3.0, "Passes over the text, where max_steps is -1.")
    gradient_checkpointing: bool | None = option(
        None, "Recompute activations in the backward pass: less memory, more time."
    )
    seed: int = option(42, "Seed of the split, the order and dropout.")
    per_device_train_batch_size: int = option(4, "Sequences of a forward pass on a device.")
    gradient_accumulation_steps: int = option(4, "Forward passes of an optimizer step.")
    learning_rate: float = option(3e-5, "Peak learning rate of AdamW.")
    lr_scheduler_type: str = option("cosine", "How the learning rate falls.")
    warmup_steps: float = option(0.05, "Warm-up: steps, or a share of max_steps if below 1.")
    eval_strategy: str | None = option(  # type: ignore[assignment]
        None, "no, steps or epoch; as save_strategy, else steps."
    )
    eval_steps: float | None = option(
        None, "Steps between evaluations, or a share of max_steps; as save_steps, else 0.1."
    )
    save_strategy: str | None = option(  # type: ignore[assignment]
        None, "no, steps, epoch or best; as eval_strategy, else steps."
    )
    save_steps: float | None = option(  # type: ignore[assignment]
        None, "Steps between checkpoints, or a share of max_steps; as eval_steps, else 0.1."
    )
    save_total_limit: int | None = option(1, "Checkpoints kept beside the best one.")
    logging_steps: float = option(0.01, "Steps between log lines, or a share of max_steps.")
    load_best_model_at_end: bool = option(
        True, "End with the best checkpoint by specialized perplexity."
    )
    metric_for_best_model: str | None = option(
        SELECTION, "Specialized perplexity; infinite where the budget is broken or nothing saved."
    )
    greater_is_better: bool | None = option(
        None, "Whether metric_for_best_model is better when larger; S is, no other."
    )
    remove_unused_columns: bool = option(
        False, "Columns that the model does not take are ignored anyway."
    )
    logging_nan_inf_filter: bool = option(
        False, "Hide losses that are not finite; here they stop the run."
    )
    bf16: bool | None = option(  # type: ignore[assignment]
        None, "bfloat16 autocast; if not said, wherever the device is fast at it."
    )
    disable_tqdm: bool | None = option(False, "No progress bars.")
    report_to: None | str | list[str] = option(  # noqa: RUF036 - HfArgumentParser needs this order
        "none", "Experiment trackers: tensorboard, wandb, …"
    )

    def __post_init__(self) -> None:
        values = {name: getattr(self, name) for name in _defaults(self)}
        self.given = {
            name: value for name, value in values.items() if value != _defaults(self)[name]
        }
        if self.tau != AUTO:
            self.tau = self.fixed_tau
        require_ranges(self)
        require_known_names(self)
        self._check_own_fields()
        self._settle_open_fields()
        require_best_step(self)
        # Without an accelerator transformers wants to be told so before it allows bfloat16.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        if self.accelerator_config is None and self.dataloader_pin_memory and not self.use_cpu:
            # Pinned batches go to the device while it computes.
            self.accelerator_config = {"non_blocking": True}
        try:
            super().__post_init__()
        except _REFUSALS as error:
            raise InputError(" ".join(str(error).split())) from error
        require_usable_trainer(self)

    def _check_own_fields(self) -> None:
        if self.output_dir is None:
            raise InputError("--output_dir is missing: name the folder that the result goes to")
        for name, objective in self._objectives().items():
            require_choice(name, objective, OBJECTIVES)
        if self.adds_replay and self.new_data_fraction != _defaults(self)["new_data_fraction"]:
            raise InputError(
                f"--new_data_fraction {self.new_data_fraction} gives replayed text a part of each "
                "step, where --replay_share and --replay_weight add it to whole steps: leave one "
                "or the others out"
            )
        if self.tau == AUTO and self.max_degeneralization is None:
            raise InputError("--tau auto needs a budget to choose by: give --max_degeneralization")
        if self.tau == AUTO and not has_tau(self.objective):
            raise InputError(f"--tau auto: {self.objective} has no tau, leave it out")
        require_warm_up_within(self, self.max_steps)
        require_known(self.teacher_cache)
        if self.label_smoothing_factor:
            raise InputError(
                "--label_smoothing_factor has no place in these objectives: lower --tau instead"
            )
        if self.max_degeneralization is not None and self.metric_for_best_model != SELECTION:
            raise InputError(
                "--max_degeneralization chooses the step by specialized perplexity within the "
                "budget: leave --metric_for_best_model out"
            )

    def _settle_open_fields(self) -> None:
        """Give each field that is None its value; of two that have to agree, the other's."""
        if self.adds_replay:
            self.replay_share = self.replay_share or REPLAY_SHARE
            self.replay_weight = self.replay_weight or REPLAY_WEIGHT
            self.replay_objective = self.replay_objective or "distillation"
        strategy = "epoch" if "epoch" in (self.eval_strategy, self.save_strategy) else "steps"
        self.eval_strategy = self.eval_strategy or strategy
        self.save_strategy = self.save_strategy or strategy
        steps = self.eval_steps or self.save_steps or _EVALUATIONS
        self.eval_steps = self.eval_steps or steps
        self.save_steps = self.save_steps or steps
        if self.greater_is_better is None:
            self.greater_is_better = self.metric_for_best_model in GREATER_IS_BETTER
        if self.bf16 is None:
            self.bf16 = not self.fp16 and bfloat16_pays(self.use_cpu)
        if not hasattr(self, "activation_checkpointing"):
            self.gradient_checkpointing = bool(self.gradient_checkpointing)
        elif self.activation_checkpointing is None:
            # The name of transformers 5.23 and newer, which warn of the older one.
            self.activation_checkpointing = self.gradient_checkpointing
            self.gradient_checkpointing = None

    def but(self, **changes: Any) -> Self:
        """This configuration made anew with other options: what follows from them follows anew."""
        return type(self)(**(self.given | changes))

    @property
    def changed(self) -> list[str]:
        """The fields that are not what they are where nothing is said: set, or following from that.

        Neither `output_dir` nor a token is among them.
        """
        default = _defaults(self)
        default |= {name: value for name, value in _OPEN.items() if default.get(name, 0) is None}
        has_accelerator = torch.accelerator.is_available()
        set_up = {
            "bf16": bfloat16_pays(use_cpu=not has_accelerator),
            "do_eval": True,
            "report_to": [],
            "debug": [],
            "use_cpu": not has_accelerator,
            "dataloader_pin_memory": has_accelerator,
            "accelerator_config": AcceleratorConfig(non_blocking=has_accelerator),
        }
        default |= set_up
        known = {*self.given, *_OPEN, *set_up, *_FOLLOWING}
        return [
            name
            for name, value in default.items()
            if name in known
            and name != "output_dir"
            and not name.endswith("_token")
            and getattr(self, name) != value
        ]

    def summary(self) -> dict[str, Any]:
        """What was changed, and what is told of every run, as it is written to metrics.json."""
        said = {*self.changed, *_ALWAYS_SAID}
        return {name: value for name, value in self.to_dict().items() if name in said}

    @property
    def fixed_tau(self) -> float:
        """The tau of this run. Raises InputError for one that has still to be chosen."""
        try:
            return float(self.tau)
        except ValueError:
            raise InputError(
                f"--tau {self.tau} is no number: give one from 0 to 1, or auto to `mft train`"
            ) from None

    @property
    def sequences_per_step(self) -> int:
        """Sequences of an optimizer step over all processes, each of which trains on one device.

        Replayed ones that are added to the step come on top of them.

        `train_batch_size` counts the GPUs that a process sees, but it takes only the first.
        """
        of_a_process = self.per_device_train_batch_size * self.gradient_accumulation_steps
        return int(of_a_process * self.world_size)

    def _objectives(self) -> dict[str, str]:
        """The objectives of this run by the option that names them."""
        named = {"objective": self.objective, "replay_objective": self.replay_objective}
        return {name: objective for name, objective in named.items() if objective is not None}

    @property
    def adds_replay(self) -> bool:
        """Whether replayed text is added to whole steps, and takes no part of them."""
        return self.replay_share is not None or self.replay_weight is not None

    @property
    def replayed_per_new(self) -> float:
        """How many replayed sequences a run with replay has for each specialized one."""
        return replayed_per_new(self.new_data_fraction, self.replay_share)

    @property
    def needs_teacher(self) -> bool:
        """Whether an objective of the run distils from the starting model."""
        return any(needs_teacher(objective) for objective in self._objectives().values())

    @property
    def watches_forgetting(self) -> bool:
        """Whether a run without general text follows KL(p_T || p_S), which needs a teacher."""
        return True


def _defaults(config: TrainingArguments) -> dict[str, Any]:
    """By name what the fields of its class are where they are not set, before `__post_init__`."""
    return {
        each.name: each.default if each.default_factory is MISSING else each.default_factory()
        for each in fields(config)
        if each.init
    }


@dataclass
class ComparisonConfig(MFTConfig):
    """What all runs of a comparison have in common: they are measured, and none is kept."""

    save_strategy: str | None = option("no", "Nothing is saved.")
    load_best_model_at_end: bool = option(False, "Nothing is loaded.")
    max_degeneralization: float | None = option(
        None, "The DG in %% that the recommendation keeps to; 1 where nothing is said."
    )
