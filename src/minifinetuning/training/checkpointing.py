"""A Trainer whose checkpoints are whole, and whose runs go on as if nothing had happened."""

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from minifinetuning.errors import InputError
from minifinetuning.files import replacing
from minifinetuning.models.saving import save_model
from minifinetuning.training.checkpoints import (
    FINAL_STATE,
    MANIFEST,
    best_of,
    damage,
    manifest_of,
    write_manifest,
)
from minifinetuning.training.choosing import logged_steps
from minifinetuning.training.config import MFTConfig
from minifinetuning.training.resuming import (
    asked_checkpoint,
    checkpoint_to_resume,
    final_state,
    require_same_training,
    training_record,
)

__all__ = ["CheckpointingTrainer"]


class CheckpointingTrainer(Trainer):  # type: ignore[misc]
    """transformers' Trainer with a manifest in every checkpoint, which resuming goes by."""

    args: MFTConfig
    model: PreTrainedModel | PeftModel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._record: dict[str, Any] | None = None
        self._resumed: Path | None = None
        self._final_state: Path | None = None
        self._best: tuple[Path, float] | None = None
        super().__init__(*args, **kwargs)
        self._checkpoints_kept = self.args.save_total_limit

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """Train as Trainer does.

        `resume_from_checkpoint=True` takes the last checkpoint that was written whole, or begins
        anew where that is the start. Raises InputError where one cannot be gone on from, or is of
        another training: see `resuming`.
        """
        self._record = self._record or training_record(self.args, self.model, self._texts())
        asked = asked_checkpoint(resume_from_checkpoint)
        self._resumed, self._final_state = self._checkpoint(asked)
        self._make_ready()
        self._best = None if self._resumed is None else self._chosen_again()
        checkpoint = None if self._resumed is None else str(self._resumed)
        output = super().train(checkpoint, trial, ignore_keys_for_eval)
        self._keep_final_state()
        return output

    def _texts(self) -> dict[str, Any]:
        """All texts that a run depends on, by the names that `resuming` knows."""
        return {} if self.train_dataset is None else {"train": self.train_dataset}

    def _checkpoint(self, asked: str | bool) -> tuple[Path | None, Path | None]:
        """What to go on from, and how the run ended if it has.

        The first process decides: all go on, or all raise InputError.
        """
        said: list[Any] = [None, None, None]
        if self.accelerator.process_index == 0:
            try:
                said[:2] = self._own_checkpoint(asked)
            except InputError as error:
                said[2] = str(error)
        found, final, refusal = broadcast_object_list(said)
        if refusal is not None:
            raise InputError(refusal)
        return found, final

    def _own_checkpoint(self, asked: str | bool) -> tuple[Path | None, Path | None]:
        found = checkpoint_to_resume(asked, self._folder, self.args)
        if found is None:
            return None, None
        assert self._record is not None
        require_same_training(found, self._record, self.args)
        final = final_state(found, self.args)
        if final is None:
            # It goes on from there: what was its end is none any more.
            (found / FINAL_STATE).unlink(missing_ok=True)
        return found, final

    def _chosen_again(self) -> tuple[Path, float] | None:
        """The best step so far and its metric: the first process decides, and all follow."""
        assert self._resumed is not None
        said: list[Any] = [None]
        if self.accelerator.process_index == 0:
            state = self._final_state or self._resumed / TRAINER_STATE_NAME
            chosen = self._best_so_far(logged_steps(state))
            said = [chosen, chosen is not None and damage(chosen[0]) is not None]
        found = broadcast_object_list(said if said[0] else [None, False])
        best: tuple[Path, float] | None = found[0]
        if best is not None and found[1]:
            # Only the start may have gone by now; the model still holds its weights.
            self._save_starting_weights(best[0])
        return best

    def _best_so_far(self, log: list[dict[str, Any]]) -> tuple[Path, float] | None:
        """The best step of a run with this log, by today's rule; None to leave it as it was."""
        return None

    def _keep_final_state(self) -> None:
        """Note how the run has ended, where its last checkpoint, which says so, is not kept."""
        best = self.state.best_model_checkpoint
        last = self._folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if not (self.args.should_save and best) or last.is_dir():
            return
        if manifest_of(Path(best)) is not None:
            with replacing(Path(best) / FINAL_STATE) as temporary:
                self.state.save_to_json(str(temporary))

    def _load_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with warnings.catch_warnings():
            # For transformers 4 our config.json has it too: nobody has to do anything about it.
            warnings.filterwarnings("ignore", "`rope_scaling` is deprecated", FutureWarning)
            super()._load_from_checkpoint(*args, **kwargs)

    def _load_callback_state(self) -> None:
        """With the rest of a checkpoint's state; the best one lies beside it, wherever that is."""
        if self._final_state is not None:
            self.state = TrainerState.load_from_json(str(self._final_state))
        super()._load_callback_state()
        best = None if self._resumed is None else best_of(self._resumed)
        if best is not None:
            self.state.best_model_checkpoint = str(best)
        if self._best is not None:
            self.state.best_model_checkpoint = str(self._best[0])
            self.state.best_metric = self._best[1]

    def _run_epoch(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's, which trains a step before it asks whether the run has ended already."""
        if self.control.should_training_stop or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return None
        return super()._run_epoch(*args, **kwargs)

    def _make_ready(self) -> None:
        """What has to be done on the starting weights, before anything changes them."""

    @property
    def _folder(self) -> Path:
        assert self.args.output_dir is not None, "TrainingArguments gives it a name"
        return Path(self.args.output_dir)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Trainer's, with a manifest, before which no older checkpoint is removed."""
        folder = self._folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        limit = self._checkpoints_kept = self.args.save_total_limit
        self.args.save_total_limit = None
        try:
            if self.args.should_save:
                (folder / MANIFEST).unlink(missing_ok=True)
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        # Other processes write files of their own.
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self._write_manifest(folder, resumable=not self.args.save_only_model)
            best = self.state.best_model_checkpoint
            rotate_checkpoints(str(self._folder), limit, best, use_mtime=True)

    def _save_starting_weights(self, folder: Path) -> None:
        if self.args.should_save:
            for name in (MANIFEST, FINAL_STATE):
                (folder / name).unlink(missing_ok=True)
        self.save_model(str(folder), _internal_call=True)
        if self.args.should_save:
            self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
            self._write_manifest(folder, resumable=False)

    def _write_manifest(self, folder: Path, *, resumable: bool) -> None:
        assert self._record is not None, "training has begun"
        write_manifest(folder, self.state.global_step, self._record, resumable=resumable)

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None
    ) -> None:
        """Save model, tokenizer and arguments: for other programs too, and without secrets."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or self._folder)
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer: Any = self.processing_class
        if tokenizer is None:
            tokenizer = getattr(self.data_collator, "tokenizer", None)
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        save_model(model, folder, tokenizer, state_dict=state_dict)
        torch.save(self._shared_args(), folder / TRAINING_ARGS_NAME)

    def _shared_args(self) -> MFTConfig:
        """The arguments without what lets one into an account: files are passed on to others."""
        shared = copy.copy(self.args)
        shared.save_total_limit = self._checkpoints_kept
        for name in vars(shared):
            if name.endswith("_token"):
                setattr(shared, name, None)
        return shared
