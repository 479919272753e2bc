"""A Trainer that measures forgetting: S, DG and DG/S while it trains, and a budget for them."""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, ProgressCallback, TrainerCallback
from transformers.trainer_utils import SaveStrategy

from minifinetuning.data.batches import Sequences
from minifinetuning.errors import InputError, TrainingDivergedError
from minifinetuning.evaluation.comparison import measurements
from minifinetuning.evaluation.scores import GENERAL, SPECIALIZED, TextScores, scores_by_text
from minifinetuning.teacher.live import Teacher
from minifinetuning.training.callbacks import (
    Budget,
    ProgressLine,
    SamplerEpoch,
    StartingPoint,
    metric_name,
    within_budget,
)
from minifinetuning.training.checkpointing import CheckpointingTrainer
from minifinetuning.training.checkpoints import last_complete_checkpoint
from minifinetuning.training.choosing import best_step
from minifinetuning.training.config import SELECTION, MFTConfig
from minifinetuning.training.requirements import named_texts, require_measurable

__all__ = ["MeasuringTrainer"]

logger = logging.getLogger(__name__)


class MeasuringTrainer(CheckpointingTrainer):
    """A Trainer with the evaluation of gain and loss in place of its own.

    `reference` are the scores of the starting weights, `scores_by_step` those of each evaluation,
    `budget` the callback that stops the run. Where there is no general text, `watches_kl` says that
    KL(p_T || p_S) on the specialized text is followed instead, from `_watched_teacher`.
    """

    args: MFTConfig
    model: PreTrainedModel | PeftModel
    eval_dataset: dict[str, Sequences] | None

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        args: MFTConfig,
        eval_dataset: Sequences | Mapping[str, Sequences] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        **kwargs: Any,
    ) -> None:
        texts = named_texts(eval_dataset)
        require_measurable(args, with_general=texts is not None and GENERAL in texts)
        self.budget = Budget(args.max_degeneralization, args.target_specialization)
        start = StartingPoint(self._save_starting_weights, self._starting_metrics)
        super().__init__(
            model=model,
            args=args,
            eval_dataset=texts,
            callbacks=[self.budget, start, SamplerEpoch(), *(callbacks or [])],
            **kwargs,
        )
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(ProgressLine())
        self.reference: dict[str, TextScores] | None = None
        self.scores_by_step: dict[int, dict[str, TextScores]] = {}
        without_general = texts is not None and GENERAL not in texts
        self.watches_kl = args.watches_forgetting and without_general
        if self.watches_kl:
            logger.warning(
                "no general text: DG cannot be measured; KL(p_T || p_S) on the specialized "
                "validation text is logged in its place"
            )

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
        self._save_where_target_is_reached(values)
        values["runtime"] = time.perf_counter() - start
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in values.items()}
        self._require_finite(values["loss"])
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return self._comparable(metrics) if own else metrics

    def scores(self, texts: Any = None) -> dict[str, TextScores]:
        """The model as it is now on each validation text, sequence by sequence."""
        named = self.eval_dataset if texts is None else named_texts(texts)
        if not named:
            raise InputError("no validation text: pass eval_dataset")
        teacher = self._watched_teacher(own=texts is None) if self.watches_kl else None
        rank, world_size = self.accelerator.process_index, self.accelerator.num_processes
        scores = scores_by_text(
            self.accelerator.unwrap_model(self.model),
            named,
            batch_size=self.args.per_device_eval_batch_size,
            autocast=self.accelerator.autocast,
            teachers={SPECIALIZED: teacher} if teacher is not None else {},
            process=(rank, world_size),
            description=None if self.args.disable_tqdm or rank else "evaluating",
        )
        return {name: self._summed(score) for name, score in scores.items()}

    def _watched_teacher(self, *, own: bool) -> Teacher | None:
        """What the divergence is measured from; `own` where it is of the run's validation text."""
        return None

    def _summed(self, scores: TextScores) -> TextScores:
        """Each process scored its share and left zeros elsewhere."""
        if self.accelerator.num_processes == 1:
            return scores

        def over_processes(values: Tensor) -> Tensor:
            whole: Tensor = self.accelerator.reduce(values.to(self.accelerator.device))
            return whole.cpu()

        # What was scored is known to all; how it was scored, to each for its share.
        likelihood = over_processes(scores.losses.negative_log_likelihood)
        ends = over_processes(
            torch.tensor(scores.ends.negative_log_likelihood, dtype=torch.float64)
        )
        kl = scores.forward_kl
        return replace(
            scores,
            losses=replace(scores.losses, negative_log_likelihood=likelihood),
            forward_kl=None if kl is None else over_processes(kl),
            ends=replace(scores.ends, negative_log_likelihood=float(ends)),
        )

    def _measured(
        self, scores: Mapping[str, TextScores], reference: Mapping[str, TextScores] | None
    ) -> dict[str, float]:
        values = measurements(scores, reference)
        if "specialization" in values:
            lost = values.get("degeneralization")
            eligible = within_budget(lost, self.args.max_degeneralization)
            # One that reached the target is saved for that.
            eligible = eligible and (self._is_saved() or self.budget.reaches_target(values))
            perplexity = values[f"{SPECIALIZED}_perplexity"]
            values["selection_perplexity"] = perplexity if eligible else math.inf
        return values

    def _is_saved(self) -> bool:
        """Whether a checkpoint follows this evaluation: a step that is not saved cannot be kept."""
        return not (self.is_in_train and self._saves_by_steps) or self.control.should_save

    @property
    def _saves_by_steps(self) -> bool:
        return self.args.save_strategy in (SaveStrategy.STEPS, SaveStrategy.EPOCH)

    def _save_where_target_is_reached(self, values: dict[str, float]) -> None:
        """The step that a run stops at for its gain is the one that was asked for."""
        if self.is_in_train and self._saves_by_steps and self.budget.reaches_target(values):
            self.control.should_save = True

    def _comparable(self, metrics: dict[str, float]) -> dict[str, float]:
        """For the choice of the best step: nan, which is never better, where it cannot be kept."""
        chosen = metric_name(self.args)
        if self._is_saved() and chosen in metrics:
            return metrics
        return {**metrics, chosen: math.nan} if chosen != SELECTION else metrics

    def _starting_metrics(self) -> dict[str, float]:
        """Those of step 0, which is saved whatever --save_steps says; none without a reference."""
        if self.reference is None:
            return {}
        values = measurements(self.reference, self.reference)
        values["selection_perplexity"] = values[f"{SPECIALIZED}_perplexity"]
        return {f"eval_{name}": value for name, value in values.items()}

    def _make_ready(self) -> None:
        """Measure the reference, on the weights that training starts from."""
        if self.eval_dataset is not None and self.reference is None:
            self.reference = self.scores()

    def _best_so_far(self, log: list[dict[str, Any]]) -> tuple[Path, float] | None:
        """Chosen again, since the budget may be another now than when those steps were taken."""
        by_selection = metric_name(self.args) == SELECTION
        if not (self.args.load_best_model_at_end and by_selection and self.reference):
            return None
        start = self.reference[SPECIALIZED].perplexity
        return best_step(log, self._folder, start, self.args.max_degeneralization)

    def _texts(self) -> dict[str, Any]:
        return {**super()._texts(), **(self.eval_dataset or {})}

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
        """Log as Trainer does; a loss that is not finite ends the run."""
        if "loss" in logs:
            self._require_finite(logs["loss"])
        super().log(logs, *args, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._require_finite(float(self._tr_loss))
        super()._save_checkpoint(model, trial)

    def _require_finite(self, loss: float) -> None:
        if math.isfinite(loss):
            return
        kept = last_complete_checkpoint(self._folder)
        raise TrainingDivergedError(
            f"the loss is {loss} at step {self.state.global_step}: lower --learning_rate "
            f"(it is {self.args.learning_rate}){self._narrow_dtype}; "
            + (f"the last good checkpoint is {kept}" if kept else "no checkpoint was written yet")
        )

    @property
    def _narrow_dtype(self) -> str:
        """Of weights held in float16, which ends at 65,504 and loses small updates: a remedy."""
        is_half = any(value.dtype == torch.float16 for value in self.model.parameters())
        return ", or hold weights in --dtype float32 (they are float16)" if is_half else ""
