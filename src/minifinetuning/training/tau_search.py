"""Choose tau within a forgetting budget: short pilot runs, a full run, a check on other text."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch.utils.data import Subset

from minifinetuning.data.sequences import Sequences
from minifinetuning.errors import InputError
from minifinetuning.evaluation.comparison import comparison
from minifinetuning.evaluation.scores import TextScores, scores_by_text
from minifinetuning.models.config import AdapterConfig, ModelConfig
from minifinetuning.models.loading import load_model
from minifinetuning.models.precision import autocast
from minifinetuning.report import model_card
from minifinetuning.training.config import MFTConfig
from minifinetuning.training.folder import run_folder
from minifinetuning.training.run import publish, rounded, trained
from minifinetuning.training.texts import Texts

__all__ = ["Pilot", "adapt_with_chosen_tau", "best_tau", "growth_exponent", "tau_within"]

logger = logging.getLogger(__name__)

FIRST_TAU = 0.25
"""The paper's."""

PILOT_SHARE = 0.25
"""Steps of a pilot run, as a share of the full run's."""

PILOTS = 6
"""Pilot runs at most, the one of half the steps among them."""


@dataclass(frozen=True)
class Pilot:
    """A short run with one tau: S and DG in % at its end."""

    tau: float
    specialization: float
    degeneralization: float


def adapt_with_chosen_tau(
    model: ModelConfig, adapter: AdapterConfig, texts: Texts, training: MFTConfig
) -> dict[str, Any]:
    """`adapt` with the tau of the largest S whose DG stays within `max_degeneralization` (%).

    The validation texts are cut in half. On their first halves pilot runs of a quarter of the steps
    (one teacher's cache serves them all) bracket tau. A longer run loses more, so theirs is a
    smaller budget: the first pilot is run in half its steps too, and DG taken to grow with the
    steps as it did between those two. The full run stops where it breaks the budget all the same.
    On the second halves, which had no part in any choice, the result is checked. Returns the
    content of metrics.json, which says what was tried as `tau_search`. Raises InputError where no
    tau keeps within the budget.
    """
    budget = training.max_degeneralization
    assert budget is not None, "MFTConfig asks for one with --tau auto"
    with run_folder(training, model, adapter):
        first = {name: _half(text, 0) for name, text in texts.validation.items()}
        second = {name: _half(text, 1) for name, text in texts.validation.items()}
        selecting = replace(texts, validation=first)
        full_steps = _full_steps(training, texts)
        steps = max(2, round(PILOT_SHARE * full_steps))
        runs = _PilotRuns(model, adapter, selecting, training)
        half, whole = runs.pilot(FIRST_TAU, steps // 2), runs.pilot(FIRST_TAU, steps)
        growth = growth_exponent(half, whole)
        pilot_budget = budget * (steps / full_steps) ** growth
        pilots = tau_within(pilot_budget, whole, lambda tau: runs.pilot(tau, steps))
        tau = best_tau(pilots, pilot_budget)
        logger.info("tau %g is taken for the full run", tau)
        full = _changed(training, adapter, Path(str(training.output_dir)), tau=tau)
        before = _starting_scores(model, second, full)
        trainer, metrics = trained(model, adapter, selecting, full, reference=runs.reference)
        metrics = rounded(trainer, metrics, model)
        metrics["tau_search"] = {
            "budget": budget,
            "tau": tau,
            "pilot_steps": steps,
            "growth": growth,
            "pilot_budget": pilot_budget,
            "pilots": [vars(pilot) for pilot in pilots],
            "held_out": comparison(before, trainer.scores(second)),
        }
        publish(trainer, metrics, model_card(metrics))
    return metrics


@dataclass
class _PilotRuns:
    """Short runs of one training with other taus; the starting model is measured once."""

    model: ModelConfig
    adapter: AdapterConfig
    texts: Texts
    training: MFTConfig
    reference: dict[str, TextScores] | None = None

    def pilot(self, tau: float, steps: int) -> Pilot:
        """One of them, of which nothing is kept but S and DG at its end."""
        with TemporaryDirectory() as folder:
            short = _pilot_training(self.training, self.adapter, tau, steps, Path(folder))
            trainer, metrics = trained(
                self.model, self.adapter, self.texts, short, reference=self.reference
            )
        self.reference = trainer.reference
        gained, lost = metrics["specialization"], metrics["degeneralization"]
        logger.info("tau %g: S %.2f %%, DG %.2f %% after %d steps", tau, gained, lost, steps)
        return Pilot(tau, gained, lost)


def growth_exponent(half: Pilot, whole: Pilot) -> float:
    """g of DG ~ steps^g, from a pilot in half the steps of another with the same tau.

    Between 0 and 2 whatever the two say; 1 where one of them lost nothing.
    """
    if min(half.degeneralization, whole.degeneralization) <= 0:
        return 1.0
    return min(2.0, max(0.0, math.log2(whole.degeneralization / half.degeneralization)))


def tau_within(budget: float, first: Pilot, pilot: Callable[[float], Pilot]) -> list[Pilot]:
    """The pilots that bracket the largest tau with DG <= `budget` (%), in order of tau.

    From that of the `first`, the paper's 0.25, tau is doubled (up to 1, finetuning) or halved until
    one pilot is within and the next beyond; what is left of the pilots halves the bracket, as a
    ratio.
    """
    found = {first.tau: first}
    while len(found) < PILOTS - 1:
        inside = [tau for tau, one in found.items() if one.degeneralization <= budget]
        outside = [tau for tau in found if tau not in inside]
        if not outside:
            following = min(1.0, 2 * max(inside))
        elif not inside:
            following = min(outside) / 2
        else:
            following = math.sqrt(max(inside) * min(outside))
        if following in found or (inside and outside and max(inside) > min(outside)):
            break
        found[following] = pilot(following)
    return [found[tau] for tau in sorted(found)]


def best_tau(pilots: list[Pilot], budget: float) -> float:
    """The tau of the largest S within the budget (%). Raises InputError where there is none."""
    within = [pilot for pilot in pilots if pilot.degeneralization <= budget]
    if not within:
        least = min(pilots, key=lambda pilot: pilot.degeneralization)
        raise InputError(
            f"--tau auto: no tau keeps DG of the pilot runs within {budget:.2g} % (tau "
            f"{least.tau:g} lost {least.degeneralization:.2f} %): raise --max_degeneralization, or "
            "lower --learning_rate"
        )
    return max(within, key=lambda pilot: pilot.specialization).tau


def _starting_scores(
    model: ModelConfig, texts: dict[str, Sequences], training: MFTConfig
) -> dict[str, TextScores]:
    """Of the model as it is before training."""
    starting: Any = load_model(model)
    return scores_by_text(
        starting.to(training.device),
        texts,
        batch_size=training.per_device_eval_batch_size,
        autocast=partial(autocast, training.device, bool(training.bf16)),
    )


def _half(text: Sequences, which: int) -> Sequences:
    if len(text) < 2:
        raise InputError(
            "--tau auto chooses on one half of the validation text and checks on the other: give "
            "more text, or a smaller --sequence_length"
        )
    middle = len(text) // 2
    return Subset(text, range(middle) if which == 0 else range(middle, len(text)))  # type: ignore[arg-type]


def _full_steps(training: MFTConfig, texts: Texts) -> float:
    if training.max_steps > 0:
        return training.max_steps
    assert texts.train is not None
    return float(training.num_train_epochs * len(texts.train) / training.sequences_per_step)


def _pilot_training(
    training: MFTConfig, adapter: AdapterConfig, tau: float, steps: int, folder: Path
) -> MFTConfig:
    """The full run's settings in fewer steps: measured at its end, and nothing of it is kept."""
    return _changed(
        training,
        adapter,
        folder,
        tau=tau,
        max_steps=steps,
        eval_strategy="steps",
        eval_steps=steps,
        eval_delay=0,
        warmup_steps=_warm_up(training, steps),
        save_strategy="no",
        load_best_model_at_end=False,
        max_degeneralization=None,
        target_specialization=None,
        resume_from_checkpoint=None,
        report_to="none",
    )


def _changed(
    training: MFTConfig, adapter: AdapterConfig, folder: Path, **changes: Any
) -> MFTConfig:
    """The same settings with other values for some, in another folder; all share one cache."""
    if training.teacher_cache == "auto":
        # Many runs ask the same of the same teacher, even where each does so once.
        frozen = adapter.adapter is not None or training.freeze_head
        changes["teacher_cache"] = "auto_expected" if frozen else "auto_hidden"
    return training.but(output_dir=str(folder), **changes)


def _warm_up(training: MFTConfig, steps: int) -> float:
    """That of the full run, in proportion; where its steps are not known, as much as there is."""
    if training.warmup_steps < 1:
        return training.warmup_steps
    if training.max_steps > 0:
        return min(training.warmup_steps / training.max_steps, 0.99)
    return min(training.warmup_steps, steps - 1)
