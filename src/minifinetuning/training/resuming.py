"""Resume a run: find the checkpoint to go on from, and keep the run's own checkpoints."""

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, wait_for_everyone
from peft import PeftModel
from transformers import PreTrainedModel, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from minifinetuning.errors import InputError
from minifinetuning.evaluation.scores import SPECIALIZED, TextScores
from minifinetuning.files import replacing
from minifinetuning.training.checkpoints import (
    FINAL_STATE,
    MANIFEST,
    best_of,
    checkpoint_folder,
    checkpoints,
    damage,
    flaw,
    manifest_of,
    remove_older,
    state_in,
    write_manifest,
)
from minifinetuning.training.config import SELECTION, MFTConfig
from minifinetuning.training.same_training import require_same_training, training_record
from minifinetuning.training.selection import (
    Budget,
    best_step,
    last_evaluation,
    metric_name,
)

__all__ = ["RunCheckpoints", "asked_checkpoint", "checkpoint_to_resume", "final_state"]

logger = logging.getLogger(__name__)


class RunCheckpoints:
    """The checkpoints of one run: which it goes on from, what is written beside them, which stay.

    `resumed` is the checkpoint that the run goes on from, None where it begins anew. `ended` is the
    file that says how the run ended, where it had. `best` is the best step of a resumed run and its
    metric, chosen again by the budget of today; None to leave it as it was.
    """

    def __init__(self, args: MFTConfig) -> None:
        assert args.output_dir is not None, "TrainingArguments gives it a name"
        self.args, self.folder = args, Path(args.output_dir)
        self.resumed: Path | None = None
        self.ended: Path | None = None
        self.best: tuple[Path, float] | None = None
        self._limit = args.save_total_limit
        self._training: dict[str, Any] | None = None

    def resume(
        self,
        asked: str | bool | None,
        model: PreTrainedModel | PeftModel,
        texts: Mapping[str, Any],
    ) -> None:
        """Find what to go on from, before anything is trained.

        Raises InputError, in all processes, where a checkpoint cannot be gone on from, or is of
        another training.
        """
        self._training = self._training or training_record(self.args, model, texts)
        self.resumed, self.ended = self._as_the_first_decides(lambda: self._found(asked))

    def _found(self, asked: str | bool | None) -> tuple[Path | None, Path | None]:
        found = checkpoint_to_resume(asked_checkpoint(asked), self.folder, self.args)
        if found is None:
            return None, None
        assert self._training is not None
        require_same_training(found, self._training, self.args)
        ended = final_state(found, self.args)
        if ended is None:
            # It goes on from there: what was its end is none any more.
            (found / FINAL_STATE).unlink(missing_ok=True)
        return found, ended

    def choose_again(self, reference: Mapping[str, TextScores] | None) -> bool:
        """Choose the best step of a resumed run by the budget of today.

        Returns whether its weights have to be written again: those of the start, which alone may
        have gone by now, and which the model still holds.
        """
        by_selection = metric_name(self.args) == SELECTION
        chooses = self.args.load_best_model_at_end and by_selection
        self.best = None
        if self.resumed is None or reference is None or not chooses:
            return False
        start = reference[SPECIALIZED].perplexity
        state = self.ended or self.resumed / TRAINER_STATE_NAME

        def chosen() -> tuple[tuple[Path, float], bool]:
            log = state_in(state).get("log_history", [])
            best = best_step(log, self.folder, start, self.args.max_degeneralization)
            return best, damage(best[0]) is not None

        self.best, is_gone = self._as_the_first_decides(chosen)
        return bool(is_gone)

    def _as_the_first_decides(self, decide: Callable[[], Any]) -> Any:
        """What `decide` gives in the first process, in all of them; or the InputError it raises."""
        outcome: list[Any] = [None, None]
        if self.args.process_index == 0:
            try:
                outcome[0] = decide()
            except InputError as error:
                outcome[1] = str(error)
        value, refusal = broadcast_object_list(outcome)
        if refusal is not None:
            raise InputError(refusal)
        return value

    def restored(self, state: TrainerState) -> TrainerState:
        """The state of a resumed run; the best step lies beside it, wherever that is by now."""
        if self.ended is not None:
            state = TrainerState.load_from_json(str(self.ended))
        best = None if self.resumed is None else best_of(self.resumed)
        if best is not None:
            state.best_model_checkpoint = str(best)
        if self.best is not None:
            state.best_model_checkpoint, state.best_metric = str(self.best[0]), self.best[1]
        return state

    @contextmanager
    def all_kept(self) -> Iterator[None]:
        """Trainer removes no checkpoint in this block: `writing` and `end` do."""
        self._limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            yield
        finally:
            self.args.save_total_limit = self._limit

    @contextmanager
    def writing(self, step: int, *, resumable: bool) -> Iterator[Path]:
        """The folder of a step's checkpoint, to be filled by all processes in this block.

        At its end the checkpoint is whole, and those that it replaces are removed. The starting
        weights replace none: a run that goes on has yet to read what is there.
        """
        assert self._training is not None, "training has begun"
        folder = checkpoint_folder(self.folder, step)
        if self.args.should_save:
            for name in (MANIFEST, FINAL_STATE):
                (folder / name).unlink(missing_ok=True)
        with self.all_kept():
            yield folder
        # Other processes write files of their own.
        wait_for_everyone()
        if self.args.should_save:
            write_manifest(folder, step, self._training, resumable=resumable)
            if step > 0:
                remove_older(self.folder, self._limit, best_of(folder))

    def end(self, state: TrainerState) -> None:
        """Remove what a finished run does not keep; where that is its last step, note its end."""
        if not (self.args.should_save and state.best_model_checkpoint):
            return
        best = Path(state.best_model_checkpoint)
        remove_older(self.folder, self._limit, best, has_ended=True)
        is_kept = checkpoint_folder(self.folder, state.global_step).is_dir()
        if not is_kept and manifest_of(best) is not None:
            with replacing(best / FINAL_STATE) as temporary:
                state.save_to_json(str(temporary))

    def shared_args(self) -> MFTConfig:
        """The arguments without what lets one into an account: files are passed on to others."""
        shared = copy.copy(self.args)
        shared.save_total_limit = self._limit
        secrets = [name for name in vars(shared) if name.endswith("_token")]
        for name in secrets:
            setattr(shared, name, None)
        shared.given = {name: value for name, value in shared.given.items() if name not in secrets}
        return shared


def asked_checkpoint(value: str | bool | None) -> str | bool:
    """What --resume_from_checkpoint says: True for the last one, False for none, or a folder.

    The command line knows strings only.
    """
    if value is None or isinstance(value, bool):
        return bool(value)
    word = value.strip().lower()
    if word in ("true", "yes", "1", "last"):
        return True
    return False if word in ("", "false", "no", "0", "none") else value


def checkpoint_to_resume(
    asked: str | bool, folder: Path, args: MFTConfig | None = None, *, thoroughly: bool = True
) -> Path | None:
    """The checkpoint to go on from: the newest whole one in `folder`, or the one that is named.

    None where that is the start: nothing is asked for, or no step after the start was saved. Of a
    run with `args` that has ended, with the start as its best step, it is the start all the same.
    Raises InputError where the named one is not whole, where there is none, or where those there
    are hold no optimizer. `thoroughly` reads all of their files, and says what is passed over.
    """
    if asked is False:
        return None
    if asked is not True:
        return _named(Path(asked), args, thoroughly)
    passed_over: list[str] = []
    start = checkpoint_folder(folder, 0)
    later = [path for path in checkpoints(folder) if path != start]
    for path in later:
        found = flaw(path, thoroughly=thoroughly) or _lack(path)
        if found is None:
            _warn(passed_over if thoroughly else [])
            return path
        passed_over.append(f"{path.name} is passed over: {found}")
    if start.is_dir() and not any(flaw(path, thoroughly=False) is None for path in later):
        if final_state(start, args) is not None:
            return start
        passed_over.append(f"{folder} holds no later checkpoint: training begins anew")
        _warn(passed_over if thoroughly else [])
        return None
    reasons = f" ({'; '.join(passed_over)})" if passed_over else ""
    raise InputError(
        f"--output_dir {folder} holds no whole checkpoint to resume from{reasons}: leave "
        "--resume_from_checkpoint out"
        + (" and pass --overwrite_output_dir to train from the start" if passed_over else "")
    )


def _warn(sentences: list[str]) -> None:
    for sentence in sentences:
        logger.warning("%s", sentence)


def final_state(checkpoint: Path, args: MFTConfig | None) -> Path | None:
    """How the run ended that `checkpoint` was kept of, where one with `args` has ended by then."""
    path = checkpoint / FINAL_STATE
    state = state_in(path)
    if args is None or not state or manifest_of(checkpoint) is None:
        return None
    planned = args.max_steps if args.max_steps > 0 else state["max_steps"]
    budget = Budget(args.max_degeneralization, args.target_specialization)
    is_stopped = budget.reason_to_stop(last_evaluation(state["log_history"])) is not None
    return path if is_stopped or state["global_step"] >= planned else None


def _named(path: Path, args: MFTConfig | None, thoroughly: bool) -> Path | None:
    manifest = manifest_of(path)
    if not path.is_dir():
        found: str | None = "there is no such folder"
    elif manifest is None and checkpoints(path):
        found = f"it is the folder of a run: name {checkpoints(path)[0]}, say"
    else:
        found = flaw(path, thoroughly=thoroughly)
    if found is None and manifest is not None and manifest["step"] == 0:
        return None if final_state(path, args) is None else path
    found = found or _lack(path)
    if found is None:
        return path
    raise InputError(
        f"--resume_from_checkpoint {path}: {found}; name another checkpoint, or pass True for the "
        "newest whole one of --output_dir"
    )


def _lack(path: Path) -> str | None:
    manifest = manifest_of(path)
    if manifest is None or manifest["resumable"]:
        return None
    return "it holds no optimizer (it was written with --save_only_model), so a run cannot go on"
