"""`MFTTrainer`: every objective, its teacher, replay and EWC, on a Trainer that measures."""

import logging
import math
from collections.abc import Mapping, Sized
from dataclasses import replace
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, set_seed

from minifinetuning.data.batches import (
    REPLAY_COLUMN,
    ForeignCollator,
    Sequences,
    collate,
    model_inputs,
)
from minifinetuning.data.mixing import MixedOrder, MixedSequences
from minifinetuning.data.sequences import (
    require_embeddings,
    require_lengths,
    require_sequences,
)
from minifinetuning.errors import InputError
from minifinetuning.evaluation.scores import SPECIALIZED
from minifinetuning.models.causal import causal_model, check_halves, freeze_head
from minifinetuning.models.loading import limit_of, load_model, load_tokenizer
from minifinetuning.models.student import DistillationInputs, attach_distillation
from minifinetuning.models.vocabulary import embedding_rows
from minifinetuning.objectives import rule
from minifinetuning.teacher import CachePlan, RunTeacher, is_automatic
from minifinetuning.teacher.live import Teacher
from minifinetuning.training.config import MFTConfig
from minifinetuning.training.ewc import ElasticPenalty, fisher_diagonal, trained_parameters
from minifinetuning.training.measuring import MeasuringTrainer
from minifinetuning.training.requirements import (
    named_texts,
    require_fisher_text,
    require_validation,
    required_mixture,
)
from minifinetuning.training.token_means import TokenMeans

__all__ = ["MFTTrainer"]

logger = logging.getLogger(__name__)


class MFTTrainer(MeasuringTrainer):
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
    each step exactly the share `new_data_fraction` is new. `fisher_dataset` (where nothing is said
    the replayed text) is what `ewc_lambda` estimates its Fisher information on. Neither may share
    documents with the general validation text.

    The model as given is the reference: the teacher, and what S and DG are relative to. With
    `peft_config` the adapters are made here. Raises InputError for a model that cannot be trained.
    """

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
        _refuse_what_has_no_place(kwargs)
        texts = {"train_dataset": train_dataset, "replay_dataset": replay_dataset}
        texts |= {"fisher_dataset": fisher_dataset}
        texts |= {
            f'eval_dataset["{key}"]': text
            for key, text in (named_texts(eval_dataset) or {}).items()
        }
        for name, text in texts.items():
            if text is not None:
                require_sequences(text, name)
        require_validation(args, eval_dataset)
        self.mixture = required_mixture(args, replay_dataset, train_dataset)
        self.replay_dataset = replay_dataset
        self.fisher_dataset = replay_dataset if fisher_dataset is None else fisher_dataset
        require_fisher_text(args, self.fisher_dataset)
        if not isinstance(model, (str, nn.Module)):
            raise InputError(
                f"model is a {type(model).__name__}: give a causal language model of transformers, "
                "or its folder or hub id"
            )
        if isinstance(model, str):
            processing_class = processing_class or load_tokenizer(model)
            model = load_model(model)
        check_halves(model)
        for name, text in texts.items():
            require_embeddings(text, embedding_rows(model), name)
            require_lengths(text, limit_of(model.config), name)
        if peft_config is not None:
            set_seed(args.seed)
            model = get_peft_model(model, peft_config)
        if args.n_gpu > 1:
            logger.warning("one process trains on one GPU: use `accelerate launch` for the others")
            args._n_gpu = 1
        super().__init__(
            model=model,
            args=args,
            data_collator=_own_or_wrapped(kwargs.pop("data_collator", None)),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            **kwargs,
        )
        # The loss is ours for every architecture: also where a model's own forward could not be
        # told the tokens of the whole step, and accumulated passes would each take their own mean.
        self.model_accepts_loss_kwargs = True
        settings = (args.fixed_tau, args.kl_weight)
        self.rule = rule(args.objective, *settings)
        self.replay_rule = rule(args.replay_objective or args.objective, *settings)
        self._means = TokenMeans()
        self._penalty: ElasticPenalty | None = None
        if args.freeze_head:
            freeze_head(self.model)
        self._run_teacher: RunTeacher | None = None
        if args.needs_teacher or self.watches_kl:
            self._run_teacher = self._decided_teacher()
        attach_distillation(causal_model(self.model))

    def _make_ready(self) -> None:
        self._require_teacher()
        self._require_penalty()
        super()._make_ready()

    def _texts(self) -> dict[str, Any]:
        texts = super()._texts()
        if self.replay_dataset is not None:
            texts["replay"] = self.replay_dataset
        if self.args.ewc_lambda:
            texts["fisher"] = self.fisher_dataset
        return texts

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
        requested = self.args.teacher_cache
        if isinstance(self.data_collator, ForeignCollator):
            if not _may_be_none(requested):
                raise InputError(
                    f"--teacher_cache {requested} knows batches of the usual making alone: leave "
                    "data_collator out, or pass --teacher_cache none"
                )
            requested = "none"
        decided = RunTeacher(
            requested,
            self.model,
            texts,
            passes=self._passes(texts),
            autocast=self.accelerator.autocast,
        )
        if isinstance(self.data_collator, ForeignCollator) and self.args.teacher_cache == "auto":
            decided.plan = replace(decided.plan, reason="the data_collator is of another making")
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
        if self.watches_kl and self.eval_dataset is not None:
            texts["validation"] = self.eval_dataset[SPECIALIZED]
        if all(isinstance(text, Sized) for text in texts.values()):
            return texts
        if not _may_be_none(self.args.teacher_cache):
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
            seen = self.args.max_steps * self.args.sequences_per_step
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
        _read_ahead(self.args)

    def _watched_teacher(self, *, own: bool) -> Teacher | None:
        self._require_teacher()
        # A teacher on disk knows what it said of this run's texts, and of nothing else.
        is_asked = own or self._run_teacher is None or not self._run_teacher.is_cached
        return self.teacher if is_asked else None

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

    def hyperparameter_search(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: all trials would go on with one model. Raises InputError."""
        raise InputError(
            "hyperparameter_search has no place in MFTTrainer, whose trials would start from "
            "weights that are trained already: make a trainer for each trial, or use mft compare"
        )

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
        self._means.add(outputs)
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

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log as Trainer does, with the means over the tokens of the steps since the last time."""
        if "loss" in logs:
            logs = {**logs, **self._means.drained()}
            if self._penalty is not None:
                logs["ewc_penalty"] = float(self._penalty.last)
        super().log(logs, *args, **kwargs)


_WITHOUT_PLACE = {
    "model_init": "S and DG are relative to the one model that is given: pass model, and make a "
    "trainer for each trial",
    "compute_loss_func": "the loss is that of --objective: leave it out",
    "compute_metrics": "evaluation gives perplexities, S and DG: leave it out",
    "preprocess_logits_for_metrics": "evaluation makes no logits: leave it out",
}


def _read_ahead(args: MFTConfig) -> None:
    """On a GPU the next batches are read and pinned by two workers while it is at this one."""
    if args.device.type == "cuda" and args.dataloader_num_workers == 0:
        args.dataloader_num_workers = 2
        # Where workers are not forked, each imports everything anew: once a run, not once an epoch.
        args.dataloader_persistent_workers = True


def _refuse_what_has_no_place(given: dict[str, Any]) -> None:
    """Raise InputError for an argument of Trainer's that would be ignored."""
    for name, reason in _WITHOUT_PLACE.items():
        if given.pop(name, None) is not None:
            raise InputError(f"{name} has no place in MFTTrainer: {reason}")


def _own_or_wrapped(collator: Any) -> Any:
    return collate if collator in (None, collate) else ForeignCollator(collator)


def _may_be_none(requested: str) -> bool:
    """Whether a value of `--teacher_cache` leaves a live teacher possible."""
    return requested == "none" or is_automatic(requested)
