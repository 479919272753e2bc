"""The teacher on disk: computed once, then the same for every tau, objective and epoch."""

from minifinetuning.teacher.build import TeacherCache, open_cache
from minifinetuning.teacher.plan import (
    Autocast,
    CachePlan,
    is_automatic,
    plan_cache,
    require_known,
    require_possible,
)

__all__ = [
    "Autocast",
    "CachePlan",
    "TeacherCache",
    "is_automatic",
    "open_cache",
    "plan_cache",
    "require_known",
    "require_possible",
]
