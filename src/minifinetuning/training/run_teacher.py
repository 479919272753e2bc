"""The teacher of one run: checked when the trainer is made, computed when the run begins."""

import logging
import math
from collections.abc import Mapping, Sized
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel

from minifinetuning.data.sequences import Sequences
from minifinetuning.errors import InputError
from minifinetuning.evaluation.scores import GENERAL, SPECIALIZED
from minifinetuning.models.weights import sampled_weights_identity
from minifinetuning.objectives import needs_teacher
from minifinetuning.teacher import (
    Autocast,
    CachePlan,
    is_automatic,
    open_cache,
    plan_cache,
    require_possible,
)
from minifinetuning.teacher.live import Teacher, starting_teacher, teacher_of
from minifinetuning.training.config import MFTConfig

__all__ = ["RunTeacher"]

logger = logging.getLogger(__name__)


class RunTeacher:
    """What a run asks about the starting model, through a cache or live.

    It is asked about a text that is trained on where the text's objective needs it, and about the
    specialized validation text where `watches_kl`: KL(p_T || p_S) is followed there for want of
    general text.
    `plan` says whether through a cache, and `teacher` answers. Where a cache is possible both come
    with `begin`, which hashes the texts and the weights and computes what is missing. Raises
    InputError, when it is made, for a cache that cannot be, and for adapters that cannot be
    switched off; `begin` raises those of `plan_cache` and `open_cache`.
    """

    def __init__(
        self,
        args: MFTConfig,
        model: PreTrainedModel | PeftModel,
        *,
        train: Any,
        replay: Any = None,
        validation: Mapping[str, Sequences] | None = None,
        own_batches: bool = True,
        autocast: Autocast,
    ) -> None:
        """`own_batches` says whether batches are made by `collate`, as a cache has to know."""
        self.teacher: Teacher | None = None
        self.plan: CachePlan | None = None
        self._args, self._model = args, model
        self._autocast = autocast
        self._cached: Mapping[str, Sequences] = {}
        self._texts: dict[str, Any] = {}
        self._train, self._replays = train, replay is not None
        if needs_teacher(args.objective):
            self._texts["train"] = train
        if replay is not None and needs_teacher(args.replay_objective or args.objective):
            self._texts["replay"] = replay
        without_general = validation is not None and GENERAL not in validation
        self.watches_kl = args.watches_forgetting and without_general
        if self.watches_kl and validation is not None:
            logger.warning(
                "no general text: DG cannot be measured; KL(p_T || p_S) on the specialized "
                "validation text is logged in its place"
            )
            self._texts["validation"] = validation[SPECIALIZED]
        if not self._texts:
            return
        reason = _no_cache(args.teacher_cache, self._texts, own_batches=own_batches)
        if reason is None:
            require_possible(args.teacher_cache, model)
            self._source = starting_teacher(model)
            self._start = sampled_weights_identity(model)
        else:
            self._decide(CachePlan(reason))

    def text(self, name: str, text: Any) -> Any:
        """The text by its name here, with what the teacher says of it where that was cached."""
        return self._cached.get(name, text)

    def watched(
        self, texts: Mapping[str, Sequences], *, own: bool
    ) -> tuple[Mapping[str, Sequences], dict[str, Teacher]]:
        """Validation texts as they are to be scored, and the teachers to compare with on them.

        `own` are those of the run: a teacher on disk knows what it said of these alone.
        """
        if not self.watches_kl:
            return texts, {}
        teacher = self.begin()
        if teacher is None or (self._cached and not own):
            return texts, {}
        if own:
            texts = {**texts, SPECIALIZED: self.text("validation", texts[SPECIALIZED])}
        return texts, {SPECIALIZED: teacher}

    def begin(self) -> Teacher | None:
        """Make the teacher ready, before weights change; None where nothing asks it.

        The first time takes long.
        """
        if self.teacher is None and self._texts:
            plan = plan_cache(
                self._args.teacher_cache,
                self._model,
                self._texts,
                passes=self._passes(),
                autocast=self._autocast,
            )
            self._decide(plan)
            if plan.stores:
                self._open(plan)
        return self.teacher

    def _decide(self, plan: CachePlan) -> None:
        self.plan = plan
        if not plan.stores:
            self.teacher = teacher_of(self._model)
        if self._args.process_index == 0:
            logger.info("%s", plan)

    def _open(self, plan: CachePlan) -> None:
        if sampled_weights_identity(self._model) != self._start:
            raise InputError(
                "the model was changed before its teacher's cache was computed: make the trainer "
                "after the change, or pass teacher_cache none"
            )
        cache = open_cache(
            plan,
            self._source,
            self._texts,
            batch_size=self._args.per_device_train_batch_size,
            autocast=self._autocast,
            progress=not self._args.disable_tqdm and self._args.process_index == 0,
        )
        self.teacher, self._cached = cache.teacher, cache.texts
        _read_ahead(self._args)

    def _passes(self) -> float:
        """How often this run goes over its training texts, on the average over sequences."""
        args, trained = self._args, self._texts.keys() & {"train", "replay"}
        if not trained:
            return math.inf
        new = args.num_train_epochs * len(self._train)
        if args.max_steps > 0:
            new = args.max_steps * args.sequences_per_step
            if self._replays and not args.adds_replay:
                new *= args.new_data_fraction
        seen = {"train": new, "replay": args.replayed_per_new * new}
        sequences = sum(len(self._texts[name]) for name in trained)
        return sum(seen[name] for name in trained) / max(1, sequences)


def _no_cache(requested: str, texts: Mapping[str, Any], *, own_batches: bool) -> str | None:
    """Why there can be no cache, if so. Raises InputError where one is asked for all the same."""
    if requested == "none":
        return "--teacher_cache none"
    if not all(isinstance(text, Sized) for text in texts.values()):
        reason = "no text of known length"
        refusal = "needs a training dataset of known length: give one that has it"
    elif not own_batches:
        reason = "the data_collator is of another making"
        refusal = "knows batches of the usual making alone: leave data_collator out"
    else:
        return None
    if not is_automatic(requested):
        raise InputError(f"--teacher_cache {requested} {refusal}, or pass --teacher_cache none")
    return reason


def _read_ahead(args: MFTConfig) -> None:
    """On a GPU the next batches are read and pinned by two workers while it is at this one."""
    if args.device.type == "cuda" and args.dataloader_num_workers == 0:
        args.dataloader_num_workers = 2
        # Where workers are not forked, each imports everything anew: once a run, not once an epoch.
        args.dataloader_persistent_workers = True
