"""Compute a teacher's cache before training: `mft cache`."""

import math
import time
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import ClassVar

from accelerate import PartialState

from minifinetuning.data.config import DataConfig
from minifinetuning.errors import InputError
from minifinetuning.evaluation.scores import SPECIALIZED
from minifinetuning.models.causal import check_halves, freeze_head
from minifinetuning.models.config import AdapterConfig, ModelConfig
from minifinetuning.models.loading import load_model
from minifinetuning.models.precision import autocast, bfloat16_pays
from minifinetuning.options import option, require_ranges
from minifinetuning.report.tables import markdown_table
from minifinetuning.teacher import CachePlan, open_cache, plan_cache, require_known
from minifinetuning.teacher.fingerprint import format_bytes
from minifinetuning.teacher.live import StartingModel
from minifinetuning.teacher.upkeep import kept_teachers, limit, prune, teachers_folder
from minifinetuning.training.texts import SELF, TextNeeds, read_texts
from minifinetuning.training.writable import require_cache_apart

__all__ = ["CacheConfig", "cache_teacher", "listed_teachers", "pruned_teachers"]


@dataclass
class CacheConfig:
    """What a teacher's cache is made for: the options that must be those of the training."""

    _argument_group_name: ClassVar[str] = "cache"

    teacher_cache: str = option(
        "auto", "hidden, expected, or the folder that it goes to; auto: the smallest step."
    )
    freeze_head: bool = option(False, "The training will have --freeze_head.")
    new_data_fraction: float = option(0.5, "With --replay: the share of new sequences in training.")
    replay_share: float | None = option(
        None, "Where training adds replay to whole steps: sequences of it for each new one."
    )
    per_device_train_batch_size: int = option(4, "Sequences of a forward pass.")
    bf16: bool | None = option(
        None, "bfloat16 autocast; if not said, wherever the device is fast at it."
    )
    seed: int = option(42, "Seed of the split.")
    list: bool = option(False, "Alone: say which caches there are, and how large.")
    prune: bool = option(False, "Alone: remove the caches that no run is using.")

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


def cache_teacher(
    model: ModelConfig, adapter: AdapterConfig, data: DataConfig, options: CacheConfig
) -> CachePlan:
    """Compute the caches that `mft train` with the same options would begin with.

    The training texts', and without general text the validation text's too, since KL(p_T || p_S)
    is followed there. Several processes may be at it, started together or one by one: each takes
    parts that no other is at. Raises InputError for input that cannot be used.
    """
    require_cache_apart(model, data, options)
    read = data
    if data.general == [SELF] and not data.replay:
        # What forgetting is measured on is not in the training text: none need be written now.
        read = replace(data, general=None)
    needs = TextNeeds(
        options.seed,
        new_data_fraction=options.new_data_fraction,
        replay_share=options.replay_share,
    )
    texts = read_texts(model, read, needs)
    sequences = texts.trained()
    if not data.general:
        sequences["validation"] = texts.validation[SPECIALIZED]
    starting = load_model(model)
    check_halves(starting)
    if options.freeze_head or adapter.adapter:
        freeze_head(starting)
    process = PartialState()
    starting.to(process.device)

    in_bf16 = partial(autocast, process.device, bool(options.bf16))
    plan = plan_cache(options.teacher_cache, starting, sequences, passes=math.inf, autocast=in_bf16)
    speaks = process.is_main_process
    if speaks:
        print(plan)
    start = time.perf_counter()
    open_cache(
        plan,
        StartingModel(starting),
        sequences,
        batch_size=options.per_device_train_batch_size,
        autocast=in_bf16,
        progress=speaks,
    )
    if speaks:
        print(f"whole after {time.perf_counter() - start:.0f} seconds")
    return plan


def listed_teachers() -> str:
    """The teachers' caches of this user, those used last first, and how much all of them may be."""
    kept = kept_teachers()
    total = f"{format_bytes(sum(each.bytes for each in kept))} of {format_bytes(limit())}"
    if not kept:
        return f"no teacher's cache lies in {teachers_folder()}: {total}"
    lines = [["cache", "kind", "tokens", "size", "last used", "in use"]]
    for each in reversed(kept):
        used = datetime.fromtimestamp(each.last_use / 1e9).strftime("%Y-%m-%d %H:%M")
        size, running = format_bytes(each.bytes), "yes" if each.is_used else ""
        lines.append([each.folder.name, each.kind, f"{each.predictions:,}", size, used, running])
    return f"{markdown_table(lines, words=2)}\n\n{total} in {teachers_folder()}"


def pruned_teachers() -> str:
    """Remove every teacher's cache that no run uses at the moment, and say what that freed."""
    removed = prune()
    freed = format_bytes(sum(each.bytes for each in removed))
    left = kept_teachers()
    in_use = f"; {len(left)} in use are left" if left else ""
    return f"removed {len(removed)} caches, {freed}, from {teachers_folder()}{in_use}"
