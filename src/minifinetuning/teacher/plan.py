"""Which cache a run gets, where it lies and how large it will be, decided before any work."""

import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from minifinetuning.data.sequences import Sequences
from minifinetuning.errors import InputError
from minifinetuning.models.causal import causal_model, output_head
from minifinetuning.models.weights import weights_identity
from minifinetuning.ops import Head
from minifinetuning.teacher.columns import EXPECTED, HIDDEN, columns
from minifinetuning.teacher.fingerprint import Contents, Fingerprint, format_bytes, text_identity
from minifinetuning.teacher.store import TeacherStore, stored_fingerprint
from minifinetuning.teacher.upkeep import existing, kept_teachers, room, teachers_folder

__all__ = [
    "Autocast",
    "CachePlan",
    "is_automatic",
    "plan_cache",
    "require_known",
    "require_possible",
]

AUTO = "auto"

Autocast = Callable[[], AbstractContextManager[Any]]
"""Makes the context that the teacher's forward runs in."""

_NAMES = {HIDDEN: "hidden-state cache", EXPECTED: "expected-embedding cache"}


@dataclass(frozen=True)
class CachePlan:
    """A decision and its `reason`: a store for each text, or none at all, and then no `kind`."""

    reason: str
    kind: str | None = None
    stores: Mapping[str, TeacherStore] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """What the caches hold once they are whole."""
        return sum(store.contents.bytes for store in self.stores.values())

    @property
    def needed(self) -> int:
        """Bytes that are still to be written."""
        return sum(
            store.contents.bytes * len(store.missing) // max(len(store.parts), 1)
            for store in self.stores.values()
        )

    def summary(self) -> dict[str, Any]:
        """For metrics.json."""
        return {"cache": self.kind or "none", "reason": self.reason, "bytes": self.bytes}

    def __str__(self) -> str:
        if self.kind is None:
            return f"teacher: no cache ({self.reason})"
        rows = sum(store.contents.rows for store in self.stores.values())
        row_bytes = max(store.contents.row_bytes for store in self.stores.values())
        return (
            f"teacher: {_NAMES[self.kind]} ({self.reason}), {format_bytes(self.bytes)} = "
            f"{rows:,} tokens x {row_bytes:,} bytes, {self._state()}, "
            f"in {', '.join(str(store.folder) for store in self.stores.values())}"
        )

    def _state(self) -> str:
        parts = sum(len(store.parts) for store in self.stores.values())
        there = parts - sum(len(store.missing) for store in self.stores.values())
        if there == parts:
            return "already there"
        return f"{there} of {parts} parts already there" if there else "to be computed"


def plan_cache(
    requested: str,
    model: PreTrainedModel | PeftModel,
    texts: Mapping[str, Sequences],
    *,
    passes: float,
    autocast: Autocast,
) -> CachePlan:
    """What `--teacher_cache` comes to for a model that has not been trained yet.

    `requested` is auto, none, hidden, expected or a folder: the cache of the text "train" lies in
    it, the others' below it by their names. `passes` is how often training will go over a text.

    auto takes no cache where a single pass would compute as much as the cache does, or where it
    does not fit beside those in use within the limit of all caches; otherwise the expected
    embeddings where they are exact, else the hidden states. auto_hidden and auto_expected are for
    runs that share a cache with others, so that a single pass is no reason against it. Raises
    InputError where a folder holds something else, where the disk is too small for a cache that was
    asked for, and for unknown words.
    """
    require_known(requested)
    if requested == "none":
        return CachePlan("--teacher_cache none")
    head = output_head(model)
    obstacle = _obstacle_to_expected(head)
    kind, reason = _kind(requested, obstacle)
    contents = _contents(kind, model, texts, head, autocast)
    stores = {name: TeacherStore(_folder(requested, name, of), of) for name, of in contents.items()}
    plan = CachePlan(reason, kind, stores)
    needed, free = plan.needed, _free(plan)
    if is_automatic(requested) and needed:
        if requested == AUTO and passes <= 1:
            return CachePlan("a single pass would not use it twice")
        allowed = room(stores.values())
        if needed > allowed:
            return CachePlan(
                f"{format_bytes(needed)} would be more than the {format_bytes(max(allowed, 0))} "
                "that are left for teachers' caches"
            )
    if needed > free:
        raise InputError(
            f"--teacher_cache {requested} needs {format_bytes(needed)}, but the disk has "
            f"{format_bytes(free)} free: free some, name a folder on another disk, or pass "
            "--teacher_cache none"
        )
    return plan


def require_known(requested: str) -> None:
    """Raise InputError where a value of `--teacher_cache` is neither a choice nor a folder.

    A word without a slash that names no folder is more likely a misspelt choice.
    """
    if requested == "none" or is_choice(requested) or "/" in requested:
        return
    if not requested.startswith(("~", ".")) and not Path(requested).is_dir():
        raise InputError(
            f"--teacher_cache {requested} is not known: give auto, none, hidden, expected or a "
            "folder (./NAME where it is to be made in this one)"
        )


def require_possible(requested: str, model: PreTrainedModel | PeftModel) -> None:
    """Raise InputError where a folder holds a cache that this model's training cannot use."""
    _kind(requested, _obstacle_to_expected(output_head(model)))


def is_choice(requested: str) -> bool:
    """Whether a value of `--teacher_cache` names what is cached, not a folder."""
    return is_automatic(requested) or requested in (HIDDEN, EXPECTED)


def is_automatic(requested: str) -> bool:
    """Whether a run may as well go without: there is one where it pays and where it fits."""
    return requested in (AUTO, f"{AUTO}_{HIDDEN}", f"{AUTO}_{EXPECTED}")


def _kind(requested: str, obstacle: str | None) -> tuple[str, str]:
    """The kind of cache, and why."""
    if requested.endswith(HIDDEN) and is_choice(requested):
        return HIDDEN, f"--teacher_cache {HIDDEN}"
    found = None if is_choice(requested) else _held(Path(requested).expanduser())
    if found is None:
        if obstacle:
            return HIDDEN, f"not expected embeddings: {obstacle}"
        return EXPECTED, "the output head is frozen"
    if found.get("kind") == EXPECTED and obstacle:
        raise InputError(
            f"--teacher_cache {requested} holds expected embeddings, which are not possible here: "
            f"{obstacle}; name another folder"
        )
    return (EXPECTED if found.get("kind") == EXPECTED else HIDDEN), "as the folder holds"


def _held(folder: Path) -> dict[str, Any] | None:
    """The fingerprint of the cache in a folder, or of a text's below it; None where none is."""
    if (found := stored_fingerprint(folder)) or not folder.exists():
        return found
    below = (stored_fingerprint(each) for each in sorted(folder.glob("[!.]*")))
    return next(below, None)


def _obstacle_to_expected(head: Head) -> str | None:
    """Why a teacher cannot be reduced to expected embeddings, if so."""
    if head.soft_cap is not None:
        return "the model caps its logits"
    if head.weight.requires_grad or (head.bias is not None and head.bias.requires_grad):
        return "the output head is trained, unless with --freeze_head or --adapter"
    return None


def _contents(
    kind: str,
    model: PreTrainedModel | PeftModel,
    texts: Mapping[str, Sequences],
    head: Head,
    autocast: Autocast,
) -> dict[str, Contents]:
    weights = weights_identity(model)
    dtype, computed_in = _precision(model, autocast)
    contents = {}
    for name, text in texts.items():
        identity = text_identity(text)
        fingerprint = Fingerprint(
            kind, identity.digest, weights, str(dtype).removeprefix("torch."), computed_in
        )
        contents[name] = Contents(
            fingerprint, columns(kind, head.weight.shape[1], dtype), identity.predictions
        )
    return contents


def _precision(model: PreTrainedModel | PeftModel, autocast: Autocast) -> tuple[torch.dtype, str]:
    """What states are stored in, and a description of what they are computed in."""
    inner = causal_model(model)
    device = inner.device.type
    with autocast():
        lowered = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if lowered else inner.dtype
    said = f"{inner.dtype} weights" + (f" under {dtype} autocast" if lowered else "")
    return dtype, said.replace("torch.", "")


def _folder(requested: str, name: str, contents: Contents) -> Path:
    if is_choice(requested):
        return teachers_folder() / contents.fingerprint.key[:16]
    folder = Path(requested).expanduser()
    return folder if name == "train" else folder / name


def _free(plan: CachePlan) -> int:
    """Bytes free where the caches go, with what makes room for them."""
    folders = {store.folder for store in plan.stores.values()}
    (first, *_) = folders
    free = shutil.disk_usage(existing(first)).free
    if first.parent == teachers_folder():
        unused = [kept for kept in kept_teachers() if not kept.is_used]
        free += sum(kept.bytes for kept in unused if kept.folder not in folders)
    return free
