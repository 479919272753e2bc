"""The teacher on disk: computed once, then the same for every tau, objective and epoch."""

from minifinetuning.cache.building import Autocast
from minifinetuning.cache.opening import TeacherCache, open_cache
from minifinetuning.cache.plan import CachePlan, is_automatic, plan_cache, require_known
from minifinetuning.cache.run import RunTeacher

__all__ = [
    "Autocast",
    "CachePlan",
    "RunTeacher",
    "TeacherCache",
    "is_automatic",
    "open_cache",
    "plan_cache",
    "require_known",
]
