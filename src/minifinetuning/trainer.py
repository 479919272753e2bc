"""`MFTTrainer`: transformers' Trainer with the distillation loss, and forgetting measured."""

import logging
import math
import time
from collections.abc import Mapping, Sized
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
from transformers.trainer_utils import SaveStrategy

from minifinetuning.cache import CachePlan, RunTeacher
from minifinetuning.callbacks import Budget, ProgressLine, StartingPoint, within_budget
from minifinetuning.checkpoints import last_complete_checkpoint, require_checkpoint
from minifinetuning.config import MFTConfig
from minifinetuning.data.batches import REPLAY_COLUMN, Sequences, collate, model_inputs
from minifinetuning.data.mixing import MixedOrder, MixedSequences
from minifinetuning.errors import InputError, TrainingDivergedError
from minifinetuning.evaluation import GENERAL, SPECIALIZED, TextScores, measurements, text_scores
from minifinetuning.ewc import ElasticPenalty, fisher_diagonal, trained_parameters
from minifinetuning.models.causal import causal_model, check_halves, freeze_head
from minifinetuning.models.loading import load_model, load_tokenizer
from minifinetuning.models.student import (
    DistillationInputs,
    DistillationOutput,
    attach_distillation,
)
from minifinetuning.objectives import rule
from minifinetuning.requirements import (
    named_texts,
    require_fisher_text,
    require_measurable,
    required_mixture,
)
from minifinetuning.teachers import Teacher

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
    of transformers. `eval_dataset` is a dict with "specialized" and, where there is general text,
    "general"; a dataset alone is the specialized one. Without general text DG cannot be measured,
    and KL(p_T || p_S) on the specialized text is logged as the signal of forgetting.

    `replay_dataset` is general text to train on beside the other: of each process's sequences in
    each step exactly the share `new_data_fraction` is new. `fisher_dataset` (where nothing is said
    the replayed text) is what `ewc_lambda` estimates its Fisher information on. Neither may share
    documents with the general validation text.

    The model as given is the reference: the teacher, and what S and DG are relative to. With
    `peft_config` the adapters are made here. Raises InputError for a model that cannot be trained.
    """

    args: MFTConfig
    model: PreTrainedModel | PeftModel
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
        **kwargs: Any,
    ) -> None:
        texts = named_texts(eval_dataset)
        self.mixture = required_mixture(args, replay_dataset)
        self.replay_dataset = replay_dataset
        self.fisher_dataset = replay_dataset if fisher_dataset is None else fisher_dataset
        require_fisher_text(args, self.fisher_dataset)
        require_measurable(args, with_general=texts is not None and GENERAL in texts)
        if isinstance(model, str):
            processing_class = processing_class or load_tokenizer(model)
            model = load_model(model)
        check_halves(model)
        if peft_config is not None:
            set_seed(args.seed)
            model = get_peft_model(model, peft_config)
        if args.n_gpu > 1:
            logger.warning("one process trains on one GPU: use `accelerate launch` for the others")
            args._n_gpu = 1
        self._sums = _LogSums()
        self.budget = Budget(args.max_degeneralization, args.target_specialization)
        super().__init__(
            model=model,
            args=args,
            data_collator=kwargs.pop("data_collator", collate),
            train_dataset=train_dataset,
            eval_dataset=texts,
            processing_class=processing_class,
            callbacks=[
                self.budget,
                StartingPoint(self._save_starting_weights, self._reference_perplexity),
                *(callbacks or []),
            ],
            **kwargs,
        )
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(ProgressLine())
        settings = (args.fixed_tau, args.kl_weight)
        self.rule = rule(args.objective, *settings)
        self.replay_rule = rule(args.replay_objective or args.objective, *settings)
        self._penalty: ElasticPenalty | None = None
        self.reference: dict[str, TextScores] | None = None
        self.scores_by_step: dict[int, dict[str, TextScores]] = {}
        without_general = self.eval_dataset is not None and GENERAL not in self.eval_dataset
        watches_kl = args.watches_forgetting and without_general
        if watches_kl:
            logger.warning(
                "no general text: DG cannot be measured; KL(p_T || p_S) on the specialized "
                "validation text is logged in its place"
            )
        self._watches_kl = watches_kl
        if args.freeze_head:
            freeze_head(self.model)
        self._run_teacher: RunTeacher | None = None
        if args.needs_teacher or watches_kl:
            self._run_teacher = self._decided_teacher()
        attach_distillation(causal_model(self.model))

    # Teacher

    @property
    def teacher(self) -> Teacher | None:
        """What says what the starting model predicts; None where nothing asks, or not yet."""
        return None if self._run_teacher is None else self._run_teacher.teacher

    @property
    def cache_plan(self) -> CachePlan | None:
        """What was decided about the teacher's cache; None where there is no teacher."""
        return None if self._run_teacher is None else self._run_teacher.plan

    def _decided_teacher(self) -> RunTeacher:
        texts = self._texts_to_cache()
        decided = RunTeacher(
            self.args.teacher_cache,
            self.model,
            texts,
            passes=self._passes(texts),
            autocast=self.accelerator.autocast,
        )
        if self.is_world_process_zero():
            logger.info("%s", decided.plan)
        return decided

    def _texts_to_cache(self) -> dict[str, Sequences]:
        """The texts that the teacher is asked about, where all of them have a length."""
        texts: dict[str, Any] = {}
        if self.args.needs_teacher:
            texts["train"] = self.train_dataset
            if self.replay_dataset is not None:
                texts["replay"] = self.replay_dataset
        if self._watches_kl and self.eval_dataset is not None:
            texts["validation"] = self.eval_dataset[SPECIALIZED]
        if all(isinstance(text, Sized) for text in texts.values()):
            return texts
        if self.args.teacher_cache not in ("auto", "none"):
            raise InputError(
                f"--teacher_cache {self.args.teacher_cache} needs a training dataset of known "
                "length: give one that has it, or pass --teacher_cache none"
            )
        return {}

    def _passes(self, texts: Mapping[str, Sequences]) -> float:
        """How often this run goes over its training texts, on the average over sequences."""
        if "train" not in texts:
            return math.inf
        specialized = len(texts["train"])
        seen = self.args.num_train_epochs * specialized
        if self.mixture is not None:
            seen *= self.mixture.sequences / self.mixture.new
        if self.args.max_steps > 0:
            a_step = self.args.train_batch_size * self.args.gradient_accumulation_steps
            seen = self.args.max_steps * a_step * self.args.world_size
        return seen / max(1, specialized + len(texts.get("replay", ())))

    def _require_teacher(self) -> None:
        """Make the teacher ready, before weights change."""
        if self._run_teacher is None or self.teacher is not None:
            return
        self._run_teacher.open(
            batch_size=self.args.per_device_train_batch_size,
            progress=not self.args.disable_tqdm and self.is_world_process_zero(),
        )
        self.train_dataset = self._run_teacher.texts.get("train", self.train_dataset)
        self.replay_dataset = self._run_teacher.texts.get("replay", self.replay_dataset)
        if "validation" in self._run_teacher.texts and self.eval_dataset is not None:
            validation = self._run_teacher.texts["validation"]
            self.eval_dataset = {**self.eval_dataset, SPECIALIZED: validation}
        if self.args.device.type == "cuda" and self.args.dataloader_num_workers == 0:
            # The next batches are read and pinned while the GPU is at this one.
            self.args.dataloader_num_workers = 2

    # Replay

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The specialized text, or the mixture of it and the replayed one."""
        if self.mixture is None or self.replay_dataset is None:
            return super().get_train_dataloader()
        specialized: Any = self.train_dataset
        self.train_dataset = MixedSequences(specialized, self.replay_dataset)
        try:
            return super().get_train_dataloader()
        finally:
            self.train_dataset = specialized

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if not isinstance(train_dataset, MixedSequences):
            return super()._get_train_sampler(train_dataset)
        assert self.mixture is not None
        sizes = len(train_dataset.specialized), len(train_dataset.replay)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return MixedOrder(*sizes, self.mixture, seed)

    # Elastic weight consolidation

    def _require_penalty(self) -> None:
        """Estimate the Fisher information on the starting weights, before they change."""
        if not self.args.ewc_lambda or self._penalty is not None:
            return
        assert self.fisher_dataset is not None
        with self.accelerator.autocast():
            fisher = fisher_diagonal(
                self.model,
                self.fisher_dataset,
                seed=self.args.seed,
                progress=not self.args.disable_tqdm and self.is_world_process_zero(),
            )
        self._penalty = ElasticPenalty(trained_parameters(self.model), fisher, self.args.ewc_lambda)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Trainer's step; the penalty joins the gradients once they are whole."""
        loss: Tensor = super().training_step(*args, **kwargs)
        if self._penalty is None or not self.accelerator.sync_gradients:
            return loss
        scaler = self.accelerator.scaler
        return loss + self._penalty.add_gradients(1.0 if scaler is None else scaler.get_scale())

    # Loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The summed loss of the batch over the number of predicted tokens of the whole step."""
        distillation = self._distillation_inputs(inputs, return_outputs)
        outputs = model(**model_inputs(inputs), distillation=distillation)
        self._sums.add(outputs)
        count = outputs.tokens if num_items_in_batch is None else num_items_in_batch
        loss = outputs.loss / torch.as_tensor(count).clamp(min=1)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            # The count is of all processes, and data parallel averages their gradients.
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _distillation_inputs(
        self, inputs: dict[str, Any], with_logits: bool = False
    ) -> DistillationInputs:
        rule = self.replay_rule if inputs.get(REPLAY_COLUMN) else self.rule
        if not self.args.needs_teacher:
            return DistillationInputs(rule, with_logits=with_logits)
        self._require_teacher()
        assert self.teacher is not None
        # The student's own forward is under autocast by accelerate's wrapper; the teacher's is not.
        with self.accelerator.autocast():
            outputs = self.teacher.outputs(inputs)
        return DistillationInputs(rule, outputs, with_logits)

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
        values = self._measured(scores, self.reference if own else None)
        values["runtime"] = time.perf_counter() - start
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in values.items()}
        self._require_finite(values["loss"])
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def scores(self, texts: Any = None) -> dict[str, TextScores]:
        """The model as it is now on each validation text, sequence by sequence."""
        if self._watches_kl:
            self._require_teacher()
        named = self.eval_dataset if texts is None else named_texts(texts)
        if not named:
            raise InputError("no validation text: pass eval_dataset")
        own = texts is None or self._run_teacher is None or not self._run_teacher.is_cached
        watches_kl = self._watches_kl and own
        rank, world_size = self.accelerator.process_index, self.accelerator.num_processes
        return {
            name: self._summed(
                text_scores(
                    self.accelerator.unwrap_model(self.model),
                    text,
                    batch_size=self.args.per_device_eval_batch_size,
                    teacher=self.teacher if watches_kl and name == SPECIALIZED else None,
                    autocast=self.accelerator.autocast(),
                    process=(rank, world_size),
                    description=None if self.args.disable_tqdm or rank else f"evaluating: {name}",
                )
            )
            for name, text in named.items()
        }

    def _summed(self, scores: TextScores) -> TextScores:
        """Each process scored its share and left zeros elsewhere."""
        if self.accelerator.num_processes == 1:
            return scores

        def over_processes(values: Tensor) -> Tensor:
            whole: Tensor = self.accelerator.reduce(values.to(self.accelerator.device))
            return whole.cpu()

        losses = type(scores.losses)(
            over_processes(scores.losses.negative_log_likelihood),
            over_processes(scores.losses.tokens),
        )
        kl = scores.forward_kl
        return TextScores(losses, None if kl is None else over_processes(kl))

    def _measured(
        self, scores: Mapping[str, TextScores], reference: Mapping[str, TextScores] | None
    ) -> dict[str, float]:
        values = measurements(scores, reference)
        if "specialization" in values:
            lost = values.get("degeneralization")
            eligible = within_budget(lost, self.args.max_degeneralization) and self._is_saved()
            perplexity = values[f"{SPECIALIZED}_perplexity"]
            values["selection_perplexity"] = perplexity if eligible else math.inf
        return values

    def _is_saved(self) -> bool:
        """Whether a checkpoint follows this evaluation: a step that is not saved cannot be kept."""
        by_steps = self.args.save_strategy in (SaveStrategy.STEPS, SaveStrategy.EPOCH)
        return not (self.is_in_train and by_steps) or self.control.should_save

    # The run

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """Train as Trainer does, the reference measured first, on the weights training starts from.

        `resume_from_checkpoint=True` takes the last checkpoint that was written whole.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = str(require_checkpoint(self._folder))
        self._require_teacher()
        self._require_penalty()
        if self.eval_dataset is not None and self.reference is None:
            self.reference = self.scores()
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    @property
    def _folder(self) -> Path:
        assert self.args.output_dir is not None, "TrainingArguments gives it a name"
        return Path(self.args.output_dir)

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

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log as Trainer does, with the means over the tokens of the steps since the last time."""
        if "loss" in logs:
            self._require_finite(logs["loss"])
            logs = {**logs, **self._sums.drained()}
            if self._penalty is not None:
                logs["ewc_penalty"] = float(self._penalty.last)
        super().log(logs, *args, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._require_finite(float(self._tr_loss))
        super()._save_checkpoint(model, trial)

    def _save_starting_weights(self, folder: Path) -> None:
        self.save_model(str(folder))

    def _reference_perplexity(self) -> float:
        return math.inf if self.reference is None else self.reference[SPECIALIZED].perplexity

    def _require_finite(self, loss: float) -> None:
        if math.isfinite(loss):
            return
        kept = last_complete_checkpoint(self._folder)
        raise TrainingDivergedError(
            f"the loss is {loss} at step {self.state.global_step}: lower --learning_rate "
            f"(it is {self.args.learning_rate}); "
            + (f"the last good checkpoint is {kept}" if kept else "no checkpoint was written yet")
        )


class _LogSums:
    """Sums over tokens of what the op says about them, kept on the device until they are logged."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, outputs: DistillationOutput) -> None:
        for name in ("tokens", "forward_kl", "teacher_is_right", "mixing"):
            values = getattr(outputs, name)
            if outputs.forward_kl is not None:
                self.sums[name] = self.sums.get(name, 0.0) + values.detach().sum().float()

    def drained(self) -> dict[str, float]:
        """Means per token since the last call: KL in nats, share where the teacher is right, m."""
        sums, self.sums = self.sums, {}
        tokens = float(sums.pop("tokens", torch.zeros(())))
        return {name: float(total) / tokens for name, total in sums.items()} if tokens else {}
