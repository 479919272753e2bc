"""From a plan to caches that are whole: what is missing is computed, what was there is checked."""

from collections.abc import Mapping
from dataclasses import dataclass

from minifinetuning.data.batches import Sequences
from minifinetuning.errors import InputError
from minifinetuning.models.causal import output_head
from minifinetuning.teacher.building import Autocast, build, require_agreement
from minifinetuning.teacher.fingerprint import weights_identity
from minifinetuning.teacher.kinds import cached_teacher
from minifinetuning.teacher.live import AdaptersOff, StartingModel, Teacher
from minifinetuning.teacher.plan import CachePlan
from minifinetuning.teacher.sequences import SequencesWithTeacher
from minifinetuning.teacher.upkeep import hold, make_room, teachers_folder

__all__ = ["TeacherCache", "open_cache"]


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

    Raises InputError where the model was changed after the plan was made, a part is damaged, the
    disk is full, or a cache that was there already disagrees with the model.
    """
    _require_unchanged(plan, source)
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


def _require_unchanged(plan: CachePlan, source: StartingModel | AdaptersOff) -> None:
    planned = {store.contents.fingerprint.weights for store in plan.stores.values()}
    if planned != {weights_identity(source.model)}:
        raise InputError(
            "the model was changed before its teacher's cache was computed: make the trainer "
            "after the change, or pass teacher_cache none"
        )
