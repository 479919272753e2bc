"""`MFTConfig`: transformers' TrainingArguments with a few fields and the paper's defaults."""

import math
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
from accelerate.state import AcceleratorState, PartialState
from transformers import TrainingArguments

from minifinetuning.errors import InputError, did_you_mean
from minifinetuning.models.precision import bfloat16_pays
from minifinetuning.objectives import (
    OBJECTIVES,
    check_tau,
    has_tau,
    needs_teacher,
)
from minifinetuning.options import require_ranges
from minifinetuning.teacher import require_known
from minifinetuning.training.config.trainer_options import (
    require_known_names,
    require_usable_trainer,
    require_warm_up_within,
)

__all__ = ["AUTO", "SELECTION", "MFTConfig"]

AUTO = "auto"
"""The tau that has still to be chosen."""

_EVALUATIONS = 0.1
"""Share of the steps between two evaluations, each with a checkpoint, where nothing is said."""

SELECTION = "eval_selection_perplexity"
"""What the step that is kept is chosen by; infinite where a step cannot be kept."""

_LOWER_IS_BETTER = {
    f"{prefix}{name}"
    for prefix in ("", "eval_")
    for name in (
        *("loss", "selection_perplexity", "specialized_perplexity", "general_perplexity"),
        *("degeneralization", "ratio", "forward_kl"),
    )
}
"""All that evaluations say but S, see `requirements.metrics_of_evaluations`."""

_GREATER_IS_BETTER = {"specialization", "eval_specialization"}


@dataclass
class MFTConfig(TrainingArguments):
    """`TrainingArguments` with the objective, the forgetting budget, and the paper's defaults.

    1000 steps of 16 sequences with AdamW and tau = 0.25 (section 3.1); ten evaluations on the way,
    and the checkpoint of least specialized perplexity is kept. The paper does not name its learning
    rate and schedule: the defaults here come from trials described in docs/defaults.md, and are the
    same for every objective. Raises InputError for values that cannot be.
    """

    _argument_group_name: ClassVar[str] = "training"

    objective: str = field(
        default="mft", metadata={"help": f"What is trained: {', '.join(OBJECTIVES)}."}
    )
    tau: float | str = field(
        default=0.25,
        metadata={
            "help": "Target correction in [0, 1]: 0 stays closest to the model, 1 is ft; or auto."
        },
    )
    kl_weight: float = field(
        default=0.1,
        metadata={"help": "Weight of KL(p_T || p_S) in kl, asft and mask_the_target."},
    )
    new_data_fraction: float = field(
        default=0.5,
        metadata={"help": "With --replay: the share of each step's sequences that is new."},
    )
    replay_objective: str | None = field(
        default=None, metadata={"help": "What replayed text trains, where that is another."}
    )
    ewc_lambda: float = field(
        default=0.0,
        metadata={"help": "Weight of elastic weight consolidation; its Fisher: general text."},
    )
    max_degeneralization: float | None = field(
        default=None,
        metadata={"help": "Stop once DG exceeds this many %%, and keep what came before."},
    )
    target_specialization: float | None = field(
        default=None, metadata={"help": "Stop once S has reached this many %%."}
    )

    teacher_cache: str = field(
        default="auto",
        metadata={
            "help": "What is kept of the teacher: auto, none, hidden, expected, or in a folder."
        },
    )
    freeze_head: bool = field(
        default=False,
        metadata={"help": "Leave the output head (and embeddings tied to it) as it is."},
    )

    # Defaults of TrainingArguments that minifinetuning sets differently.
    output_dir: str | None = field(default=None, metadata={"help": "Where the result is written."})
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Replace a previous run in output_dir."}
    )
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"help": "True for the last whole checkpoint, or a folder."}
    )
    max_steps: int = field(default=1000, metadata={"help": "Optimizer steps."})
    num_train_epochs: float = field(
        default=3.0, metadata={"help": "Passes over the text, where max_steps is -1."}
    )
    gradient_checkpointing: bool | None = field(
        default=None,
        metadata={"help": "Recompute activations in the backward pass: less memory, more time."},
    )
    seed: int = field(default=42, metadata={"help": "Seed of the split, the order and dropout."})
    per_device_train_batch_size: int = field(
        default=4, metadata={"help": "Sequences of a forward pass on a device."}
    )
    gradient_accumulation_steps: int = field(
        default=4, metadata={"help": "Forward passes of an optimizer step."}
    )
    learning_rate: float = field(default=3e-5, metadata={"help": "Peak learning rate of AdamW."})
    lr_scheduler_type: str = field(
        default="cosine", metadata={"help": "How the learning rate falls."}
    )
    warmup_steps: float = field(
        default=0.05, metadata={"help": "Warm-up: steps, or a share of max_steps if below 1."}
    )
    eval_strategy: str | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "no, steps or epoch; as save_strategy, else steps."}
    )
    eval_steps: float | None = field(
        default=None,
        metadata={
            "help": "Steps between evaluations, or a share of max_steps; as save_steps, else 0.1."
        },
    )
    save_strategy: str | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "no, steps, epoch or best; as eval_strategy, else steps."}
    )
    save_steps: float | None = field(  # type: ignore[assignment]
        default=None,
        metadata={
            "help": "Steps between checkpoints, or a share of max_steps; as eval_steps, else 0.1."
        },
    )
    save_total_limit: int | None = field(
        default=1, metadata={"help": "Checkpoints kept beside the best one."}
    )
    logging_steps: float = field(
        default=0.01, metadata={"help": "Steps between log lines, or a share of max_steps."}
    )
    load_best_model_at_end: bool = field(
        default=True, metadata={"help": "End with the best checkpoint by specialized perplexity."}
    )
    metric_for_best_model: str | None = field(
        default=SELECTION,
        metadata={
            "help": "Specialized perplexity; infinite where the budget is broken or nothing saved."
        },
    )
    greater_is_better: bool | None = field(
        default=None,
        metadata={"help": "Whether metric_for_best_model is better when larger; S is, no other."},
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Columns that the model does not take are ignored anyway."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Hide losses that are not finite; here they stop the run."}
    )
    bf16: bool | None = field(  # type: ignore[assignment]
        default=None,
        metadata={"help": "bfloat16 autocast; if not said, wherever the device is fast at it."},
    )
    disable_tqdm: bool | None = field(default=False, metadata={"help": "No progress bars."})
    report_to: None | str | list[str] = field(  # noqa: RUF036 - HfArgumentParser needs this order
        default="none", metadata={"help": "Experiment trackers: tensorboard, wandb, …"}
    )

    def __post_init__(self) -> None:
        require_ranges(self)
        require_known_names(self)
        self._check_own_fields()
        self._follow_each_other()
        if self.bf16 is None:
            self.bf16 = not self.fp16 and bfloat16_pays(self.use_cpu)
        if getattr(self, "activation_checkpointing", self) is None:
            # The name of transformers 5.23 and newer, which warn of the older one.
            self.activation_checkpointing = self.gradient_checkpointing
            self.gradient_checkpointing = None
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

    def _follow_each_other(self) -> None:
        """Where one of two settings that have to agree is left open, it is the other's.

        Raises InputError where evaluations and checkpoints do not fall on the same steps, since a
        step that is not saved cannot be kept.
        """
        if self.eval_strategy is None:
            self.eval_strategy = "epoch" if self.save_strategy == "epoch" else "steps"
        if self.save_strategy is None:
            self.save_strategy = "epoch" if self.eval_strategy == "epoch" else "steps"
        given = self.eval_steps or self.save_steps or _EVALUATIONS
        self.eval_steps = self.eval_steps or given
        self.save_steps = self.save_steps or given
        if self.greater_is_better is None:
            self.greater_is_better = self.metric_for_best_model in _GREATER_IS_BETTER
        self._require_reached("eval")
        if not self.load_best_model_at_end:
            return
        self._require_reached("save")
        if self.eval_strategy == "no":
            raise InputError(
                "--eval_strategy no leaves nothing to choose the best step by: evaluate, or give "
                "--load_best_model_at_end False"
            )
        if self.save_strategy not in ("best", self.eval_strategy):
            raise InputError(
                f"--eval_strategy {self.eval_strategy} and --save_strategy {self.save_strategy} "
                "must be the same, since only a step that is saved can be kept: give one of them"
            )
        if self.save_strategy == "steps" and not _is_multiple(self.save_steps, self.eval_steps):
            raise InputError(
                f"--save_steps {self.save_steps:g} must be --eval_steps {self.eval_steps:g} or a "
                "multiple of it, since only a step that is evaluated can be chosen: give one of "
                "them, and the other is the same"
            )

    def _require_reached(self, which: str) -> None:
        """Raise InputError where the run ends before the first step that counts."""
        strategy, steps = getattr(self, f"{which}_strategy"), getattr(self, f"{which}_steps")
        if strategy == "steps" and 0 < self.max_steps < steps:
            raise InputError(
                f"--{which}_steps {steps:g} is above --max_steps {self.max_steps}: no step would "
                "be measured and kept, lower it"
            )
        if self.eval_strategy == "steps" and 0 < self.max_steps <= self.eval_delay:
            raise InputError(
                f"--eval_delay {self.eval_delay:g} leaves no step of --max_steps {self.max_steps} "
                "to measure: lower it"
            )

    def _check_own_fields(self) -> None:
        if self.output_dir is None:
            raise InputError("--output_dir is missing: name the folder that the result goes to")
        for name, objective in self._objectives().items():
            if objective not in OBJECTIVES:
                raise InputError(
                    f"--{name} {objective} is not known{did_you_mean(objective, OBJECTIVES)}"
                )
        self._check_tau()
        require_warm_up_within(self, self.max_steps)
        if self.greater_is_better and self.metric_for_best_model in _LOWER_IS_BETTER:
            raise InputError(
                f"--greater_is_better would keep the worst step by --metric_for_best_model "
                f"{self.metric_for_best_model}, of which less is better: leave it out"
            )
        if self.greater_is_better is False and self.metric_for_best_model in _GREATER_IS_BETTER:
            raise InputError(
                "--greater_is_better false would keep the step of least gain: leave it out"
            )
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

    def _check_tau(self) -> None:
        if self.tau != AUTO:
            try:
                check_tau(self.fixed_tau)
            except InputError:
                raise
            except ValueError as error:
                raise InputError(f"--{error}") from error
        elif self.max_degeneralization is None:
            raise InputError("--tau auto needs a budget to choose by: give --max_degeneralization")
        elif not has_tau(self.objective):
            raise InputError(f"--tau auto: {self.objective} has no tau, leave it out")

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

        `train_batch_size` counts the GPUs that a process sees, but it takes only the first.
        """
        of_a_process = self.per_device_train_batch_size * self.gradient_accumulation_steps
        return int(of_a_process * self.world_size)

    def _default(self) -> "MFTConfig":
        """What nobody has changed, and no trainer that runs meanwhile is disturbed."""
        # TrainingArguments resets the state that all accelerators share, those at work as well.
        shared = [(state, dict(state._shared_state)) for state in (AcceleratorState, PartialState)]
        default = type(self)(output_dir=self.output_dir)
        for state, content in shared:
            state._shared_state.update(content)
        return default

    def chosen(self, *always: str) -> dict[str, Any]:
        """The arguments that make this configuration again: what differs from the defaults.

        The fields in `always` are among them in any case, `output_dir` never is.
        """
        default = self._default()
        changed = {
            field.name
            for field in fields(self)
            if field.init and getattr(self, field.name) != getattr(default, field.name)
        }
        for one, other in _TWINS:
            # Alone it would take the other along.
            changed |= {one, other} if changed & {one, other} else set()
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name in changed | {*always} - {"output_dir"}
        }

    def _objectives(self) -> dict[str, str]:
        """The objectives of this run by the option that names them."""
        named = {"objective": self.objective, "replay_objective": self.replay_objective}
        return {name: objective for name, objective in named.items() if objective is not None}

    @property
    def needs_teacher(self) -> bool:
        """Whether an objective of the run distils from the starting model."""
        return any(needs_teacher(objective) for objective in self._objectives().values())

    @property
    def watches_forgetting(self) -> bool:
        """Whether a run without general text follows KL(p_T || p_S), which needs a teacher."""
        return True

    def summary(self) -> dict[str, Any]:
        """The fields that differ from the defaults of this class, and the project's own ones."""
        own = {
            "objective",
            "tau",
            "learning_rate",
            "lr_scheduler_type",
            "max_steps",
            "seed",
            "bf16",
        }
        default = self._default().to_dict()
        return {
            name: value
            for name, value in self.to_dict().items()
            if name in own or value != default.get(name)
        }


_TWINS = (("eval_steps", "save_steps"), ("eval_strategy", "save_strategy"))

_REFUSALS = (ValueError, TypeError, KeyError, ImportError, OSError, NotImplementedError)
"""What TrainingArguments lets through for settings that it cannot use."""


def _is_multiple(steps: float, of: float) -> bool:
    """Whether every `steps` falls on an `of`; both are whole, or both are shares of the run."""
    if (steps < 1) != (of < 1):
        return False
    times = steps / of
    return math.isclose(times, round(times), abs_tol=1e-6) and round(times) >= 1
