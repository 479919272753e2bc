"""From a plan to caches that are whole: several processes may share the work."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from tqdm.auto import tqdm

from minifinetuning.data.batches import collate
from minifinetuning.data.sequences import Sequences
from minifinetuning.errors import InputError
from minifinetuning.models.causal import agree, output_head
from minifinetuning.teacher.columns import SequencesWithTeacher, cached_teacher, values
from minifinetuning.teacher.live import AdaptersOff, ModelTeacher, StartingModel, Teacher
from minifinetuning.teacher.plan import Autocast, CachePlan
from minifinetuning.teacher.store import TeacherStore
from minifinetuning.teacher.upkeep import hold, make_room, teachers_folder

__all__ = ["TeacherCache", "build", "open_cache", "require_agreement"]

_SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True)
class TeacherCache:
    """The texts with their teacher's columns, and the teacher that reads these."""

    texts: Mapping[str, SequencesWithTeacher]
    teacher: Teacher


def open_cache(
    plan: CachePlan,
    source: StartingModel | AdaptersOff,
    texts: Mapping[str, Sequences],
    *,
    batch_size: int,
    autocast: Autocast,
    progress: bool = False,
) -> TeacherCache:
    """The caches of a plan, whole: `source` computes what is missing, in batches of `batch_size`.

    The model must be as it was when the plan was made. Raises InputError where a part is damaged,
    the disk is full, or a cache that was there already disagrees with the model.
    """
    hold(plan.stores.values())
    # What lies in folders of their own is not within the limit.
    if any(store.folder.parent == teachers_folder() for store in plan.stores.values()):
        make_room(plan.needed)
    for name, store in plan.stores.items():
        was_there = store.is_complete
        build(
            store,
            source,
            texts[name],
            batch_size=batch_size,
            autocast=autocast,
            progress=progress,
        )
        store.require_whole()
        if was_there:
            require_agreement(store, source, texts[name], autocast=autocast)
    opened = {name: SequencesWithTeacher(texts[name], store) for name, store in plan.stores.items()}
    assert plan.kind is not None, "a plan with stores has a kind"
    return TeacherCache(opened, cached_teacher(plan.kind, output_head(source.model)))


def build(
    store: TeacherStore,
    teacher: ModelTeacher,
    sequences: Sequences,
    *,
    batch_size: int,
    autocast: Autocast,
    progress: bool = False,
) -> None:
    """Compute the parts that are missing, and wait for those that other processes compute.

    Killed at any moment, it goes on at the next call where it stopped. Sequences are computed in
    batches of `batch_size`, as training would. Raises InputError where the disk is full.
    """
    store.begin()
    with tqdm(
        total=len(sequences), desc="teacher", unit="sequence", leave=False, disable=not progress
    ) as bar:
        while missing := store.missing:
            _show(bar, store)
            computed = False
            for part in missing:
                with store.claimed(part) as mine:
                    if mine:
                        batches = _batches(store.parts[part], batch_size)
                        rows = _rows(store, teacher, sequences, batches, autocast)
                        store.write(part, list(_counted(rows, bar)))
                        computed = True
            if not computed and store.missing:
                time.sleep(_SECONDS_BETWEEN_LOOKS)


def require_agreement(
    store: TeacherStore, teacher: ModelTeacher, sequences: Sequences, *, autocast: Autocast
) -> None:
    """Compute the first sequence again, and compare it with what a cache found on disk says.

    Raises InputError where they differ by more than rounding: something that no fingerprint knows
    (an attention kernel, say) has changed the teacher.
    """
    if not len(sequences):
        return
    cached = store.read(0)
    (computed,) = _rows(store, teacher, sequences, iter([range(1)]), autocast)
    for column in store.contents.columns:
        found, expected = cached[column.name], computed[column.name]
        if not agree(found, expected, store.contents.columns[0].dtype):
            difference = float((found.double() - expected.double()).abs().max())
            raise InputError(
                f"--teacher_cache: {store.folder} is not what this model gives here (they differ "
                f"by {difference:.3g}): remove it, or name another folder"
            )


def _batches(part: range, batch_size: int) -> Iterator[range]:
    for start in range(part.start, part.stop, batch_size):
        yield range(start, min(start + batch_size, part.stop))


def _rows(
    store: TeacherStore,
    teacher: ModelTeacher,
    sequences: Sequences,
    batches: Iterator[range],
    autocast: Autocast,
) -> Iterator[dict[str, Tensor]]:
    """For each sequence of the batches its columns, (predictions, width) each, on the CPU."""
    contents = store.contents
    device = teacher.head.weight.device
    for batch in batches:
        collated = collate([sequences[index] for index in batch])
        inputs = {name: tensor.to(device) for name, tensor in collated.items()}
        with autocast():
            states = teacher.outputs(inputs)
            found = values(contents.fingerprint.kind, states, inputs["labels"][:, 1:].flatten())
        by_sequence = {
            column.name: found[column.name]
            .to(column.dtype)
            .view(len(batch), -1, column.width)
            .cpu()
            for column in contents.columns
        }
        for row, index in enumerate(batch):
            count = contents.predictions[index]
            yield {name: tensor[row, :count] for name, tensor in by_sequence.items()}


def _counted(rows: Iterator[dict[str, Tensor]], bar: Any) -> Iterator[dict[str, Tensor]]:
    for row in rows:
        yield row
        bar.update(1)


def _show(bar: Any, store: TeacherStore) -> None:
    """Other processes' parts count too."""
    missing = sum(len(store.parts[part]) for part in store.missing)
    bar.n = bar.total - missing
    bar.refresh()
