"""The teacher of one run: decided on when the trainer is made, ready before weights change."""

from collections.abc import Mapping

from peft import PeftModel
from transformers import PreTrainedModel

from minifinetuning.data.sequences import Sequences
from minifinetuning.teacher.build import open_cache
from minifinetuning.teacher.live import Teacher, starting_teacher, teacher_of
from minifinetuning.teacher.plan import Autocast, CachePlan, plan_cache

__all__ = ["RunTeacher"]


class RunTeacher:
    """The teacher that a run asks about `texts`, through a cache or live.

    `plan` says which; without a cache `teacher` is there at once. With one it comes with `open`,
    which computes what is missing, and `texts` then bring the teacher's columns along.
    For the arguments and the errors see `plan_cache`; without texts there is nothing to cache.
    """

    def __init__(
        self,
        requested: str,
        model: PreTrainedModel | PeftModel,
        texts: Mapping[str, Sequences],
        *,
        passes: float,
        autocast: Autocast,
    ) -> None:
        self.texts: Mapping[str, Sequences] = texts
        self.teacher: Teacher | None = None
        self.plan = CachePlan("no text of known length")
        self._autocast = autocast
        if texts:
            self.plan = plan_cache(requested, model, texts, passes=passes, autocast=autocast)
        if self.plan.stores:
            self._source = starting_teacher(model)
        else:
            self.teacher = teacher_of(model)

    @property
    def is_cached(self) -> bool:
        """Whether the teacher knows what it said of `texts`, and of nothing else."""
        return bool(self.plan.stores)

    def open(self, *, batch_size: int, progress: bool = False) -> None:
        """Make the caches whole and the teacher ready; see `open_cache`. Once is enough."""
        if self.teacher is not None:
            return
        cache = open_cache(
            self.plan,
            self._source,
            self.texts,
            batch_size=batch_size,
            autocast=self._autocast,
            progress=progress,
        )
        self.teacher, self.texts = cache.teacher, cache.texts
