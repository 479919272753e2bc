"""An option as a field of a dataclass, and what its value may be: ranges, and known names."""

import math
from collections.abc import Collection
from dataclasses import dataclass, field, fields
from typing import Any

from minifinetuning.errors import InputError, did_you_mean

__all__ = ["RANGES", "Range", "option", "require_choice", "require_ranges"]


def option(default: Any, text: str) -> Any:
    """A field that is an option of the command line: its default, and its line in `--help`."""
    return field(default=default, metadata={"help": text})


LARGEST = 2**31 - 1
"""What a count may be where nothing else bounds it."""


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`; an end that is `open` is not among them.

    `also` is one more number with a meaning of its own, such as -1 for "not set".
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    also: float | None = None
    noun: str = ""

    def __contains__(self, number: float) -> bool:
        if number == self.also:
            return True
        above = number > self.low if self.open_low else number >= self.low
        below = number < self.high if self.open_high else number <= self.high
        return math.isfinite(number) and above and below

    def __str__(self) -> str:
        low, high = f"{self.low:g}", f"{self.high:,.0f}" if self.high > 1 else f"{self.high:g}"
        if math.isinf(self.low):
            words = "a finite number"
        elif math.isinf(self.high) or self.high == LARGEST:
            words = f"above {low}" if self.open_low else f"{low} or above"
        elif not (self.open_low or self.open_high):
            words = f"between {low} and {high}"
        else:
            begin = "above" if self.open_low else "at least"
            end = "below" if self.open_high else "at most"
            words = f"{begin} {low} and {end} {high}"
        return f"{self.noun}{words}" + (f", or {self.also:g}" if self.also is not None else "")


_COUNT, _AT_LEAST_0 = Range(1, LARGEST), Range(0)
_POSITIVE, _SHARE = Range(0, open_low=True), Range(0, 1, open_low=True, open_high=True)
_SEED = Range(0, 2**32 - 1)

RANGES = {
    # What is trained.
    "tau": Range(0, 1),
    "kl_weight": _AT_LEAST_0,
    "ewc_lambda": _AT_LEAST_0,
    "new_data_fraction": _SHARE,
    "replay_share": _POSITIVE,
    "replay_weight": _POSITIVE,
    "max_degeneralization": Range(0, open_low=True, noun="a percentage "),
    "target_specialization": Range(0, 100, open_low=True, open_high=True, noun="a percentage "),
    "rank": Range(1, 16_384),
    "seed": _SEED,
    "data_seed": _SEED,
    # Texts and batches.
    "sequence_length": Range(2, LARGEST),
    "per_device_train_batch_size": _COUNT,
    "per_device_eval_batch_size": _COUNT,
    "gradient_accumulation_steps": _COUNT,
    "dataloader_num_workers": Range(0, 4096),
    "dataloader_prefetch_factor": _COUNT,
    # Steps.
    "max_steps": Range(1, LARGEST, also=-1),
    "num_train_epochs": _POSITIVE,
    "warmup_steps": _AT_LEAST_0,
    "eval_steps": _POSITIVE,
    "save_steps": _POSITIVE,
    "logging_steps": _POSITIVE,
    "eval_delay": _AT_LEAST_0,
    "eval_accumulation_steps": _COUNT,
    "save_total_limit": _COUNT,
    "patience": _COUNT,
    "torch_empty_cache_steps": _COUNT,
    # The optimizer.
    "learning_rate": _POSITIVE,
    "weight_decay": _AT_LEAST_0,
    "adam_beta1": Range(0, 1, open_high=True),
    "adam_beta2": Range(0, 1, open_high=True),
    "adam_epsilon": _AT_LEAST_0,
    "max_grad_norm": _AT_LEAST_0,
    "neftune_noise_alpha": _AT_LEAST_0,
    # Several processes.
    "ddp_bucket_cap_mb": _COUNT,
    "ddp_timeout": _COUNT,
    "local_rank": Range(-1, LARGEST),
    # Verbs other than train.
    "seeds": Range(1, 1000),
    "coefficients": Range(0, 1),
    "steps": Range(4, LARGEST),
    "gpus_per_cell": _AT_LEAST_0,
    "cpus_per_cell": _AT_LEAST_0,
}
"""By the name of the option. Any other number has to be finite, and no larger than a count."""


def require_ranges(options: Any) -> None:
    """Raise InputError, naming the option, where a number of the dataclass is out of its range."""
    for each in fields(options):
        value = getattr(options, each.name, None)
        for number in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(number, (int, float)) and not isinstance(number, bool):
                _require(each.name, number)


def _require(name: str, number: float) -> None:
    allowed = RANGES.get(name, Range(-LARGEST, LARGEST) if isinstance(number, int) else Range())
    if isinstance(number, int) and abs(number) > 2**63:
        # Such an integer is too long to be written, or to be compared with a float.
        raise InputError(f"--{name} must be {allowed}, got a number of {number.bit_length()} bits")
    if number in allowed:
        return
    if not math.isfinite(number) and math.isinf(allowed.high):
        raise InputError(f"--{name} must be a finite number, got {number}")
    if math.isfinite(number) and number > allowed.high == LARGEST:
        raise InputError(f"--{name} must be at most {allowed.high:,}, got {number}")
    raise InputError(f"--{name} must be {allowed}, got {number}")


def require_choice(option: str, value: str, known: Collection[str]) -> None:
    """Raise InputError, naming the nearest of those that are, for a value that is not known."""
    if value not in known:
        raise InputError(f"--{option} {value} is not known{did_you_mean(value, known)}")
