"""Methods by their names: what `replay+lora+mft@3e-4` changes in a run, and what it needs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from minifinetuning.data.mixing import Mixture
from minifinetuning.errors import InputError, did_you_mean
from minifinetuning.models.config import ADAPTERS
from minifinetuning.objectives import OBJECTIVES, needs_teacher
from minifinetuning.training.texts import SELF

__all__ = ["Method", "learning_rate", "parsed_methods", "require_distinct"]

_REPLAY, _SELF_REPLAY, _EWC, _BLEND = "replay", "self_replay", "ewc", "blend"

EWC_LAMBDA = 3000.0
"""Where nothing is said; see docs/defaults.md."""


@dataclass(frozen=True)
class Method:
    """An objective, with or without an adapter, replay, EWC, and blending at the end.

    `learning_rate` is None where the comparison's own ones apply.
    """

    name: str
    objective: str = "ft"
    adapter: str | None = None
    replay: str | None = None
    ewc: bool = False
    blend: bool = False
    learning_rate: float | None = None

    @property
    def settings(self) -> "Method":
        """The method without its name: equal where two names mean the same."""
        return replace(self, name="")

    def rates(self, common: Sequence[float]) -> Sequence[float]:
        """The learning rates that it is run at: its own one, else the `common` ones."""
        return [self.learning_rate] if self.learning_rate else common

    @property
    def needs_teacher(self) -> bool:
        """Whether a run of it asks the starting model."""
        return needs_teacher(self.objective) or self.replay == _SELF_REPLAY

    @property
    def needs_general_text(self) -> bool:
        """Whether it is trained with the help of general text that people wrote."""
        return self.replay == _REPLAY or (self.ewc and self.replay is None)

    def replay_sources(self, general: list[str] | None) -> list[str] | None:
        """What is replayed, where `general` is the general text to train on."""
        return {_REPLAY: general, _SELF_REPLAY: [SELF], None: None}[self.replay]

    def blends(self, other: "Method") -> bool:
        """Whether it is the other, blended at the end; at the same learning rate, one training."""
        unblended = replace(self.settings, blend=False, learning_rate=other.learning_rate)
        return self.blend and unblended == other.settings

    def options(self, training: dict[str, Any]) -> dict[str, Any]:
        """The fields of `MFTConfig` that it changes, for a run that has `training` in common.

        What the model wrote itself is distilled: its labels say nothing that p_T does not. That
        takes forward passes of one text alone, so a step may be cut into more of them.
        """
        changed: dict[str, Any] = {"objective": self.objective}
        if self.ewc:
            changed["ewc_lambda"] = training["ewc_lambda"] or EWC_LAMBDA
        elif training["ewc_lambda"]:
            changed["ewc_lambda"] = 0.0
        if self.replay == _SELF_REPLAY:
            batch = training["per_device_train_batch_size"]
            passes = training["gradient_accumulation_steps"]
            new = Mixture.of(training["new_data_fraction"], batch, passes, 1).new
            separate = math.gcd(batch, new)
            changed |= {
                "replay_objective": "distillation",
                "per_device_train_batch_size": separate,
                "gradient_accumulation_steps": batch * passes // separate,
            }
        return changed


def parsed_methods(names: str) -> list[Method]:
    """The methods of a comma-separated list, each like `lora+mft` or `replay+mft@1e-5`.

    A name joins, in any order, at most one objective (ft where there is none), at most one adapter,
    replay or self_replay, ewc, and blend; `@` gives it a learning rate of its own.
    Raises InputError for anything else, and for the same method twice.
    """
    if not names.strip(" ,"):
        raise InputError("--methods is empty: name at least one, such as ft,mft,lora+mft")
    if not all(name.strip() for name in names.split(",")):
        raise InputError(f"--methods {names!r} has a comma too many: there is no method behind it")
    methods = [_parsed(name.strip()) for name in names.split(",")]
    for index, method in enumerate(methods):
        same = [other for other in methods[:index] if other.settings == method.settings]
        if same:
            raise InputError(f"--methods names {same[0].name} twice: leave one out")
    return methods


def require_distinct(methods: Sequence[Method], learning_rates: Sequence[float]) -> None:
    """Raise InputError where two runs would be the same one: it would count as two seeds.

    `learning_rates` are those of the methods that name none. Rates that are written alike are the
    same, since results are kept by that name.
    """
    seen: dict[tuple[Method, str], str] = {}
    for method in methods:
        for rate in method.rates(learning_rates):
            key = replace(method.settings, learning_rate=None), f"{rate:g}"
            if key in seen:
                raise InputError(
                    f"--methods and the learning rates name {seen[key]} at {rate:g} twice: leave "
                    "one out"
                )
            seen[key] = method.name


def _parsed(name: str) -> Method:
    words, _, rate = name.partition("@")
    found: dict[str, Any] = {}
    for word in words.split("+"):
        field, value = _meaning(word, name)
        if field in found:
            raise InputError(f"--methods: {name} names two of a kind, {found[field]} and {value}")
        found[field] = value
    if found.get("adapter") == "dora" and found.get("blend"):
        raise InputError(f"--methods: {name}: DoRA is not linear in its weights, leave blend out")
    return Method(
        words, **found, learning_rate=learning_rate(rate, f"--methods: {name}") if rate else None
    )


def _meaning(word: str, name: str) -> tuple[str, Any]:
    """The field of `Method` that a word sets."""
    if word in OBJECTIVES:
        return "objective", word
    if word in ADAPTERS:
        return "adapter", word
    if word in (_REPLAY, _SELF_REPLAY):
        return "replay", word
    if word in (_EWC, _BLEND):
        return word, True
    known = (*OBJECTIVES, *ADAPTERS, _REPLAY, _SELF_REPLAY, _EWC, _BLEND)
    hint = did_you_mean(word, known, f"join {', '.join(known)} by +")
    raise InputError(f"--methods: {word!r} in {name!r} is not known{hint}")


def learning_rate(text: str, where: str) -> float:
    """The rate that a text names. Raises InputError, saying `where`, for anything else."""
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise InputError(f"{where}: {text!r} is no learning rate, write it like 3e-5")
    return rate
