"""`MFTTrainer`: trains by any objective, and measures what is gained and what is forgotten."""

import logging
import math
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    set_seed,
)
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import SaveStrategy

from minifinetuning.data.batches import ForeignCollator, collate, model_inputs
from minifinetuning.data.mixing import MixedSequences
from minifinetuning.data.sequences import Sequences
from minifinetuning.errors import InputError, TrainingDivergedError
from minifinetuning.evaluation.comparison import measurements
from minifinetuning.evaluation.scores import TextScores, scores_by_text
from minifinetuning.models.causal import causal_model, freeze_head
from minifinetuning.models.saving import save_model
from minifinetuning.models.student import attach_distillation
from minifinetuning.teacher import CachePlan
from minifinetuning.teacher.live import Teacher
from minifinetuning.training.callbacks import ProgressLine, SamplerEpoch
from minifinetuning.training.checkpoints import last_complete_checkpoint
from minifinetuning.training.config import MFTConfig
from minifinetuning.training.ewc import ElasticPenalty, starting_penalty
from minifinetuning.training.loss import StepLoss
from minifinetuning.training.requirements import (
    named_texts,
    refuse_ignored,
    require_texts,
    usable_model,
)
from minifinetuning.training.resuming import RunCheckpoints
from minifinetuning.training.run_teacher import RunTeacher
from minifinetuning.training.selection import (
    Budget,
    StartingPoint,
    comparable,
    selection_perplexity,
    starting_metrics,
)

__all__ = ["MFTTrainer"]

logger = logging.getLogger(__name__)


class MFTTrainer(Trainer):  # type: ignore[misc]
    """Adapts a causal language model while measuring what it gains and what it forgets.

        trainer = MFTTrainer(
            model="path/or/id",
            args=MFTConfig(output_dir="adapted"),
            train_dataset=corpus.train,
            eval_dataset={"specialized": corpus.validation, "general": general.validation},
        )
        trainer.train()

    Datasets hold `input_ids` and, if they like, `attention_mask` and `labels`, by the conventions
    of transformers, or a mask of what is to be learnt (`completion_mask`, `assistant_masks`); other
    columns are not looked at. With a `data_collator` of another library the teacher is asked live,
    and evaluation keeps to ours. `eval_dataset` is a dict with "specialized" and, where there is
    general text, "general"; a dataset alone is the specialized one. Without general text DG cannot
    be measured, and KL(p_T || p_S) on the specialized text is logged as the signal of forgetting.

    `replay_dataset` is general text to train on beside the other: of each process's sequences in
    each step exactly the share `new_data_fraction` is new; or, with `replay_share`, each step has
    that many more sequences for each new one (see `StepLoss`). `fisher_dataset` (where nothing is
    said the replayed text) is what `ewc_lambda` estimates its Fisher information on. Neither may
    share documents with the general validation text.

    The model as given is the reference: the teacher, and what S and DG are relative to. With
    `peft_config` the adapters are made here. `reference` are the starting model's scores where they
    are known already; else they are measured before training. `scores_by_step` are those of each
    evaluation, `budget` is the callback that stops the run.

    Raises InputError for a model that cannot be trained. What takes long, the teacher's cache
    above all, waits until training or evaluation begins.
    """

    args: MFTConfig
    model: PreTrainedModel | PeftModel
    processing_class: PreTrainedTokenizerBase | None
    eval_dataset: dict[str, Sequences] | None

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        args: MFTConfig,
        train_dataset: Sequences | None = None,
        eval_dataset: Sequences | Mapping[str, Sequences] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
        replay_dataset: Sequences | None = None,
        fisher_dataset: Sequences | None = None,
        reference: Mapping[str, TextScores] | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_ignored(kwargs)
        if not isinstance(reference, Mapping | None):
            raise InputError(
                f"reference is a {type(reference).__name__}: it holds the starting model's scores "
                "by text, as `trainer.reference` of another run has them; leave it out"
            )
        validation = named_texts(eval_dataset)
        self.replay_dataset = replay_dataset
        self.fisher_dataset = replay_dataset if fisher_dataset is None else fisher_dataset
        self.mixture = require_texts(
            args, validation, replay=replay_dataset, fisher=self.fisher_dataset, train=train_dataset
        )
        texts: dict[str, Any] = {
            "train_dataset": train_dataset,
            "replay_dataset": replay_dataset,
            "fisher_dataset": fisher_dataset,
        }
        texts |= {f'eval_dataset["{name}"]': text for name, text in (validation or {}).items()}
        model, processing_class = usable_model(model, processing_class, texts)
        if peft_config is not None:
            set_seed(args.seed)
            model = get_peft_model(model, peft_config)
        if args.n_gpu > 1:
            logger.warning("one process trains on one GPU: use `accelerate launch` for the others")
            args._n_gpu = 1
        collator: Any = kwargs.pop("data_collator", None) or collate
        self.budget = Budget(args.max_degeneralization, args.target_specialization)
        start = StartingPoint(self._save_start, lambda: starting_metrics(self.reference))
        super().__init__(
            model=model,
            args=args,
            data_collator=collator if collator is collate else ForeignCollator(collator),
            train_dataset=train_dataset,
            eval_dataset=validation,
            processing_class=processing_class,
            callbacks=[self.budget, start, SamplerEpoch(), *(callbacks or [])],
            **kwargs,
        )
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(ProgressLine())
        # The loss is ours for every architecture: also where a model's own forward could not be
        # told the tokens of the whole step, and accumulated passes would each take their own mean.
        self.model_accepts_loss_kwargs = True
        self.step_loss = StepLoss(args, replays=replay_dataset is not None)
        if args.freeze_head:
            freeze_head(self.model)
        self.reference = None if reference is None else dict(reference)
        self.scores_by_step: dict[int, dict[str, TextScores]] = {}
        self.checkpoints = RunCheckpoints(args)
        self._penalty: ElasticPenalty | None = None
        self._run_teacher = RunTeacher(
            args,
            self.model,
            train=train_dataset,
            replay=replay_dataset,
            validation=validation,
            own_batches=collator is collate,
            autocast=self.accelerator.autocast,
        )
        attach_distillation(causal_model(self.model))

    @property
    def teacher(self) -> Teacher | None:
        """What says what the starting model predicts; None where nothing asks, or not yet."""
        return self._run_teacher.teacher

    @property
    def cache_plan(self) -> CachePlan | None:
        """What was decided about the teacher's cache; None where nothing asks, or not yet."""
        return self._run_teacher.plan

    # Training

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
        texts = {"train": self.train_dataset, "replay": self.replay_dataset}
        texts |= {"fisher": self.fisher_dataset if self.args.ewc_lambda else None}
        texts |= self.eval_dataset or {}
        known = {name: text for name, text in texts.items() if text is not None}
        self.checkpoints.resume(resume_from_checkpoint, self.model, known)
        # What has to be done on the starting weights, before anything changes them.
        self._run_teacher.begin()
        self._penalty = self._penalty or starting_penalty(
            self.model, self.fisher_dataset, self.args, self.accelerator.autocast
        )
        if self.eval_dataset is not None and self.reference is None:
            self.reference = self.scores()
        if self.checkpoints.choose_again(self.reference):
            self._save_start()
        resumed = self.checkpoints.resumed
        checkpoint = None if resumed is None else str(resumed)
        output = super().train(checkpoint, trial, ignore_keys_for_eval)
        self.checkpoints.end(self.state)
        return output

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The text, mixed with the replayed one, and with what the teacher says of either."""
        if self.train_dataset is None:
            return super().get_train_dataloader()
        text = self._run_teacher.text("train", self.train_dataset)
        if self.replay_dataset is not None:
            text = MixedSequences(text, self._run_teacher.text("replay", self.replay_dataset))
        return self._get_dataloader(
            text, "Training", self._train_batch_size, self._get_train_sampler, is_training=True
        )

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if not isinstance(train_dataset, MixedSequences):
            return super()._get_train_sampler(train_dataset)
        assert self.mixture is not None
        sizes = len(train_dataset.specialized), len(train_dataset.replay)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return self.mixture.order(*sizes, seed)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's, which trains a step before it asks whether the run has ended already."""
        if self.control.should_training_stop or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return None
        return super()._run_epoch(*args, **kwargs)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's; added replay has a mean of its own, and so the count of either text, (2,)."""
        batches, count = super().get_batch_samples(*args, **kwargs)
        if self.step_loss.adds_replay and batches:
            count = self._sum(self.step_loss.counts(batches))
        return batches, count

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Trainer's step; the penalty joins the gradients once they are whole."""
        loss: Tensor = super().training_step(*args, **kwargs)
        if self._penalty is None or not self.accelerator.sync_gradients:
            return loss
        scaler = self.accelerator.scaler
        return loss + self._penalty.add_gradients(1.0 if scaler is None else scaler.get_scale())

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The summed loss of the batch over the number of predicted tokens of the whole step.

        Where replayed text is added, each of the two over its own number: see `StepLoss`.
        """
        of_step, teacher = self.step_loss, None
        if of_step.asks_teacher:
            teacher = self._run_teacher.begin()
        # The student's forward is under autocast by accelerate's wrapper; the teacher's is not.
        with self.accelerator.autocast():
            distillation = of_step.inputs(inputs, teacher, with_logits=return_outputs)
        outputs = model(**model_inputs(inputs), distillation=distillation)
        loss = of_step.of(outputs, num_items_in_batch)
        is_of_all = self.args.average_tokens_across_devices or of_step.adds_replay
        if num_items_in_batch is not None and is_of_all:
            # The count is of all processes, and data parallel averages their gradients.
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log as Trainer does, with the means over the tokens of the steps since the last time.

        A loss that is not finite ends the run.
        """
        if "loss" in logs:
            self._require_finite(logs["loss"])
            logs = {**logs, **self.step_loss.drained(self._sum)}
            if self._penalty is not None:
                logs["ewc_penalty"] = float(self._penalty.last)
        super().log(logs, *args, **kwargs)

    def _require_finite(self, loss: float) -> None:
        if math.isfinite(loss):
            return
        kept = last_complete_checkpoint(self.checkpoints.folder)
        is_half = any(value.dtype == torch.float16 for value in self.model.parameters())
        # float16 ends at 65,504 and loses small updates.
        narrow = ", or hold weights in --dtype float32 (they are float16)" if is_half else ""
        raise TrainingDivergedError(
            f"the loss is {loss} at step {self.state.global_step}: lower --learning_rate "
            f"(it is {self.args.learning_rate}){narrow}; "
            + (f"the last good checkpoint is {kept}" if kept else "no checkpoint was written yet")
        )

    def hyperparameter_search(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: all trials would go on with one model. Raises InputError."""
        raise InputError(
            "hyperparameter_search has no place in MFTTrainer, whose trials would start from "
            "weights that are trained already: make a trainer for each trial, or use mft compare"
        )

    # Evaluation

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Perplexities, S and DG in %, DG/S, against the reference; logged like any evaluation.

        `selection_perplexity` is what the best checkpoint is chosen by: the specialized perplexity,
        or infinite where the forgetting budget is broken or the step is not saved.
        """
        start = time.perf_counter()
        own = eval_dataset is None
        scores = self.scores(eval_dataset)
        if own:
            self.reference = self.reference or scores
            self.scores_by_step[self.state.global_step] = scores
        values = measurements(scores, self.reference if own else None)
        by_steps = self.args.save_strategy in (SaveStrategy.STEPS, SaveStrategy.EPOCH)
        if self.is_in_train and by_steps and self.budget.reaches_target(values):
            # The step that a run stops at for its gain is the one that was asked for.
            self.control.should_save = True
        # A step that no checkpoint follows cannot be kept.
        is_saved = not (self.is_in_train and by_steps) or self.control.should_save
        if "specialization" in values:
            values["selection_perplexity"] = selection_perplexity(
                values, self.args.max_degeneralization, is_saved=is_saved
            )
        values["runtime"] = time.perf_counter() - start
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in values.items()}
        self._require_finite(values["loss"])
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return comparable(metrics, self.args, is_saved=is_saved) if own else metrics

    def scores(self, texts: Any = None) -> dict[str, TextScores]:
        """The model as it is now on each validation text, sequence by sequence."""
        named: Any = self.eval_dataset if texts is None else named_texts(texts)
        if not named:
            raise InputError("no validation text: pass eval_dataset")
        named, teachers = self._run_teacher.watched(named, own=texts is None)
        rank, world_size = self.accelerator.process_index, self.accelerator.num_processes
        scores = scores_by_text(
            self.accelerator.unwrap_model(self.model),
            named,
            batch_size=self.args.per_device_eval_batch_size,
            autocast=self.accelerator.autocast,
            teachers=teachers,
            process=(rank, world_size),
            description=None if self.args.disable_tqdm or rank else "evaluating",
        )
        if world_size == 1:
            return scores
        return {
            name: score.over_processes(lambda values: self._sum(values).cpu())
            for name, score in scores.items()
        }

    def _sum(self, values: Tensor) -> Tensor:
        """Over all processes."""
        whole: Tensor = self.accelerator.reduce(values.to(self.accelerator.device))
        return whole

    @property
    def kept_step(self) -> int:
        """The step whose weights the model holds once training has ended: the best one's."""
        best = self.state.best_model_checkpoint
        if not (self.args.load_best_model_at_end and best):
            return int(self.state.global_step)
        return int(Path(best).name.rpartition("-")[2])

    def kept_scores(self) -> dict[str, TextScores]:
        """The scores of the kept step: remembered, or measured again in a resumed run."""
        if self.kept_step == 0 and self.reference is not None:
            return self.reference
        return self.scores_by_step.get(self.kept_step) or self.scores()

    # Checkpoints

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Trainer's, with a manifest, before which no older checkpoint is removed."""
        self._require_finite(float(self._tr_loss))
        resumable = not self.args.save_only_model
        with self.checkpoints.writing(self.state.global_step, resumable=resumable):
            super()._save_checkpoint(model, trial)

    def _save_start(self) -> None:
        """Write the starting weights, which the model still holds, as a checkpoint."""
        with self.checkpoints.writing(0, resumable=False) as folder:
            self.save_model(str(folder), _internal_call=True)
            if self.args.should_save:
                self.state.save_to_json(str(folder / TRAINER_STATE_NAME))

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None
    ) -> None:
        """Save model, tokenizer and arguments: for other programs too, and without secrets."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.checkpoints.folder)
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer = self.processing_class
        if tokenizer is None:
            tokenizer = getattr(self.data_collator, "tokenizer", None)
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        save_model(model, folder, tokenizer, state_dict=state_dict)
        torch.save(self.checkpoints.shared_args(), folder / TRAINING_ARGS_NAME)

    def _load_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with warnings.catch_warnings():
            # For transformers 4 our config.json has it too: nobody has to do anything about it.
            warnings.filterwarnings("ignore", "`rope_scaling` is deprecated", FutureWarning)
            super()._load_from_checkpoint(*args, **kwargs)

    def _load_callback_state(self) -> None:
        self.state = self.checkpoints.restored(self.state)
        super()._load_callback_state()

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        with self.checkpoints.all_kept():
            return super()._finalize_training(*args, **kwargs)
