"""What transformers' Trainer would refuse only once it is built or at work, checked at once."""

import importlib.util
import math
import os
from collections.abc import Callable
from enum import Enum
from typing import Any

import torch
from huggingface_hub import constants, get_token
from transformers import SchedulerType, TrainingArguments, get_scheduler
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)
from transformers.trainer_utils import HubStrategy, IntervalStrategy, SaveStrategy
from transformers.training_args import OptimizerNames, ParallelMode, trainer_log_levels

from minifinetuning.errors import InputError, did_you_mean
from minifinetuning.options import require_choice

__all__ = [
    "GREATER_IS_BETTER",
    "require_best_step",
    "require_known_names",
    "require_usable_trainer",
    "require_warm_up_within",
]

GREATER_IS_BETTER = {"specialization", "eval_specialization"}
"""What evaluations say that is better when larger; see `requirements.metrics_of_evaluations`."""

_LOWER_IS_BETTER = {
    "loss",
    "selection_perplexity",
    "specialized_perplexity",
    "general_perplexity",
    "degeneralization",
    "ratio",
    "forward_kl",
}
"""All else that they say, with `eval_` before it or without."""


def _values(names: type[Enum]) -> list[str]:
    return [str(name.value) for name in names]


_CHOICES: dict[str, list[str]] = {
    "eval_strategy": _values(IntervalStrategy),
    "logging_strategy": _values(IntervalStrategy),
    "save_strategy": _values(SaveStrategy),
    "hub_strategy": _values(HubStrategy),
    "lr_scheduler_type": _values(SchedulerType),
    "optim": _values(OptimizerNames),
    "log_level": [*trainer_log_levels],
    "log_level_replica": [*trainer_log_levels],
    "dataloader_multiprocessing_context": ["fork", "spawn", "forkserver"],
    "torch_compile_mode": [
        "default",
        "reduce-overhead",
        "max-autotune",
        "max-autotune-no-cudagraphs",
    ],
}


def require_known_names(args: TrainingArguments) -> None:
    """Raise InputError for a schedule, optimizer, strategy or tracker that is none, or not there.

    To be called before TrainingArguments makes enums of them.
    """
    for option, known in _CHOICES.items():
        value = getattr(args, option, None)
        name = value.value if isinstance(value, Enum) else value
        if name is not None:
            require_choice(option, str(name), known)
    trackers = args.report_to if isinstance(args.report_to, list) else [args.report_to]
    for tracker in trackers:
        if tracker not in (None, "none", "all"):
            _require_tracker(str(tracker))
    _require_packages(args)
    if args.ddp_backend is not None and "RANK" not in os.environ:
        raise InputError("--ddp_backend needs several processes: start the command with torchrun")


def require_warm_up_within(args: TrainingArguments, steps: int) -> None:
    """Raise InputError where a run of so many steps never comes to its full learning rate.

    The schedule "constant" knows no warm-up; no steps (-1) are not known yet.
    """
    if args.lr_scheduler_type != SchedulerType.CONSTANT and 1 <= steps <= args.warmup_steps:
        raise InputError(
            f"--warmup_steps {args.warmup_steps:g} leaves none of the {steps} steps of this run at "
            "the full learning rate: lower it, or give a share below 1"
        )


def require_best_step(args: TrainingArguments) -> None:
    """Raise InputError where no step of the run is measured, or the best one would not be kept.

    Evaluations and checkpoints have to fall on the same steps: one that is not saved cannot be
    kept. To be called once no strategy and no number of steps is open.
    """
    metric = args.metric_for_best_model
    if args.greater_is_better and str(metric).removeprefix("eval_") in _LOWER_IS_BETTER:
        raise InputError(
            f"--greater_is_better would keep the worst step by --metric_for_best_model {metric}, "
            "of which less is better: leave it out"
        )
    if not args.greater_is_better and metric in GREATER_IS_BETTER:
        raise InputError(
            "--greater_is_better false would keep the step of least gain: leave it out"
        )
    _require_reached(args, "eval")
    if not args.load_best_model_at_end:
        return
    _require_reached(args, "save")
    if args.eval_strategy == "no":
        raise InputError(
            "--eval_strategy no leaves nothing to choose the best step by: evaluate, or give "
            "--load_best_model_at_end False"
        )
    if args.save_strategy not in ("best", args.eval_strategy):
        raise InputError(
            f"--eval_strategy {args.eval_strategy} and --save_strategy {args.save_strategy} must "
            "be the same, since only a step that is saved can be kept: give one of them"
        )
    if args.save_strategy == "steps" and not _is_multiple(args.save_steps, args.eval_steps):
        raise InputError(
            f"--save_steps {args.save_steps:g} must be --eval_steps {args.eval_steps:g} or a "
            "multiple of it, since only a step that is evaluated can be chosen: give one of them, "
            "and the other is the same"
        )


def _require_reached(args: TrainingArguments, which: str) -> None:
    """Raise InputError where the run ends before the first step that counts."""
    strategy, steps = getattr(args, f"{which}_strategy"), getattr(args, f"{which}_steps")
    if strategy == "steps" and 0 < args.max_steps < steps:
        raise InputError(
            f"--{which}_steps {steps:g} is above --max_steps {args.max_steps}: no step would be "
            "measured and kept, lower it"
        )
    if args.eval_strategy == "steps" and 0 < args.max_steps <= args.eval_delay:
        raise InputError(
            f"--eval_delay {args.eval_delay:g} leaves no step of --max_steps {args.max_steps} to "
            "measure: lower it"
        )


def _is_multiple(steps: float, of: float | None) -> bool:
    """Whether every `steps` falls on an `of`; both are whole, or both are shares of the run."""
    assert of is not None, "to be called once none is open"
    if (steps < 1) != (of < 1):
        return False
    times = steps / of
    return math.isclose(times, round(times), abs_tol=1e-6) and round(times) >= 1


def _require_tracker(name: str) -> None:
    require_choice("report_to", name, ["none", "all", *INTEGRATION_TO_CALLBACK])
    available = get_available_reporting_integrations()
    # transformers leaves these out of its list, the second where mlflow is there too.
    module = {"flyte": "flytekit", "azure_ml": "azureml"}.get(name)
    is_there = module is not None and importlib.util.find_spec(module) is not None
    if name not in available and not is_there:
        raise InputError(
            f"--report_to {name} needs a package that is not installed: pip install "
            f"{_PACKAGES.get(name, name)}, or --report_to none"
        )


_PACKAGES = {"azure_ml": "azureml-sdk", "flyte": "flytekit"}
"""What trackers are called by pip, where that is another name."""


def require_usable_trainer(args: TrainingArguments) -> None:
    """Raise InputError for settings that only fail once a Trainer is built or trains.

    To be called once TrainingArguments has set itself up.
    """
    if args.fp16 and args.device.type == "cpu":
        raise InputError("--fp16 needs a GPU: use --bf16, or neither")
    if args.remove_unused_columns:
        raise InputError(
            "--remove_unused_columns would drop what sequences are made of: leave it out, columns "
            "that the model does not take are ignored anyway"
        )
    if args.push_to_hub and (constants.HF_HUB_OFFLINE or not (args.hub_token or get_token())):
        raise InputError("--push_to_hub needs the hub and a login to it: run `hf auth login` first")
    if args.fsdp and args.parallel_mode != ParallelMode.DISTRIBUTED:
        raise InputError("--fsdp needs several processes: start the command with torchrun")
    if args.dataloader_num_workers == 0:
        for name in ("dataloader_persistent_workers", "dataloader_multiprocessing_context"):
            if getattr(args, name):
                raise InputError(f"--{name} needs --dataloader_num_workers of 1 or more")
    if args.torch_compile:
        known = torch._dynamo.list_backends(exclude_tags=())
        if args.torch_compile_backend not in known:
            hint = did_you_mean(str(args.torch_compile_backend), known)
            raise InputError(f"--torch_compile_backend {args.torch_compile_backend}{hint}")
    _refused_as(args, "optim", "optim_args", lambda: _optimizer_settings(args))
    _refused_as(args, "lr_scheduler_type", "lr_scheduler_kwargs", lambda: _schedule(args))


def _require_packages(args: TrainingArguments) -> None:
    needed = {
        "use_liger_kernel": ("liger_kernel", "liger-kernel"),
        "deepspeed": ("deepspeed", "deepspeed"),
    }
    for option, (module, package) in needed.items():
        if getattr(args, option, False) and importlib.util.find_spec(module) is None:
            raise InputError(
                f"--{option} needs a package that is not installed: pip install {package}"
            )


def _optimizer_settings(args: TrainingArguments) -> None:
    """What Trainer does to find the class of its optimizer, with a model of one layer."""
    from transformers import Trainer

    try:
        Trainer.get_optimizer_cls_and_kwargs(args, torch.nn.Linear(1, 1))  # type: ignore[arg-type]
    except ValueError as error:
        # Its layers are not those of the model to come.
        if "No target modules found" not in str(error):
            raise


def _schedule(args: TrainingArguments) -> None:
    """A schedule of ten steps with the same arguments as the one to come."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
    settings: dict[str, Any] = {"num_warmup_steps": 1, "num_training_steps": 10}
    extra = args.lr_scheduler_kwargs
    if extra is not None and not isinstance(extra, dict):
        raise ValueError(f"--lr_scheduler_kwargs must be a mapping, got {extra!r}")
    get_scheduler(
        args.lr_scheduler_type, optimizer, **settings, scheduler_specific_kwargs=extra or {}
    )


def _refused_as(
    args: TrainingArguments, option: str, details: str, attempt: Callable[[], None]
) -> None:
    """Run the attempt; whatever a library says about it is said of the two options, in one line."""
    try:
        attempt()
    except Exception as error:
        value, detail = getattr(args, option), getattr(args, details)
        said = f"--{option} {getattr(value, 'value', value)}"
        said += f" with --{details} {detail}" if detail else ""
        text = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{said} cannot be used: {text}") from error
