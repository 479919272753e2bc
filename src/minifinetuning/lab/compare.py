"""Many methods on the same text, each trained and measured: `mft compare`."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minifinetuning.data.config import DataConfig
from minifinetuning.data.mixing import Mixture
from minifinetuning.errors import InputError
from minifinetuning.files import write_atomically
from minifinetuning.lab.cells import remove_results, run_cells, warn_of_others
from minifinetuning.lab.digests import Inputs, model_digest, text_digests
from minifinetuning.lab.method_run import WORKING, MethodRun, Settings, chosen_options
from minifinetuning.lab.methods import Method, learning_rate, parsed_methods, require_distinct
from minifinetuning.lab.processes import Executor, in_processes
from minifinetuning.lab.rows import pooled_rows
from minifinetuning.models.config import ModelConfig
from minifinetuning.report import (
    Metrics,
    comparison_page,
    difference_table,
    measured_on,
    method_table,
    recommendation,
    save_dynamics,
    save_frontier,
)
from minifinetuning.report.recommendation import ranked
from minifinetuning.training.config import AUTO, ComparisonConfig
from minifinetuning.training.folder import report_folder
from minifinetuning.training.texts import to_standard_error

__all__ = ["ComparisonPlan", "compare", "comparison_plan", "comparison_rows", "comparison_summary"]

BUDGET = 1.0
"""DG in % that a recommendation keeps to where nobody has said another."""

_WRITTEN = (
    "cells",
    "reference.json",
    "reference.*.json",
    WORKING,
    "comparison.json",
    "comparison.html",
    "results.md",
    "frontier.*",
    "dynamics.*",
)
_OLDER = ("cells/*.json", "cell")
"""What a comparison writes, and what tells the folder of one of before version 0.2."""

_ABOUT_DIFFERENCES = (
    "Both were taken on the same resamples of the same documents: where an interval holds no zero, "
    "the choice of the validation text does not explain the difference."
)
_ABOUT_OWN_TEXT = (
    "DG was measured on text that the starting model wrote itself: it estimates "
    "100 · (exp(KL(p_T‖p_S)) - 1) under the model's own distribution, not what happened to text "
    "that people wrote."
)


@dataclass(frozen=True)
class ComparisonPlan:
    """What is compared: methods x learning rates x seeds under common settings.

    `budget` is the DG in % that the recommendation keeps to; no run is stopped by it.
    """

    settings: Settings
    methods: Sequence[Method]
    learning_rates: Sequence[float]
    seeds: int
    budget: float

    @property
    def runs(self) -> list[MethodRun]:
        """A seed after the other, so that there is soon a table; methods as they were named."""
        first = self.settings.training["seed"]
        return [
            self._run(method, rate, seed)
            for seed in range(first, first + self.seeds)
            for method in self.methods
            for rate in method.rates(self.learning_rates)
        ]

    def _run(self, method: Method, rate: float, seed: int) -> MethodRun:
        for other in self.methods:
            if method.blends(other) and rate in other.rates(self.learning_rates):
                return MethodRun(method, rate, seed, MethodRun(other, rate, seed))
        return MethodRun(method, rate, seed)


def comparison_plan(
    model: ModelConfig,
    data: DataConfig,
    training: ComparisonConfig,
    *,
    methods: str,
    learning_rates: str | None = None,
    seeds: int = 1,
    rank: int = 8,
) -> ComparisonPlan:
    """What is compared, from what a person types; `training` is common to all methods.

    Its max_degeneralization is the budget, 1 % where nothing is said. Raises InputError for names
    and numbers that cannot be, and for options that belong to single methods.
    """
    for name in ("objective", "replay_objective"):
        if name in training.changed:
            raise InputError(f"--{name} is each method's own here: name it in --methods")
    if training.tau == AUTO:
        raise InputError("--tau auto is for `mft train`: give a number to compare at")
    if seeds < 1:
        raise InputError(f"--seeds must be at least 1, got {seeds}")
    if training.seed + seeds > 2**32:
        raise InputError(f"--seed {training.seed} leaves no room for {seeds} seeds: lower it")
    parsed = parsed_methods(methods)
    if any(method.replay for method in parsed):
        passes = training.gradient_accumulation_steps
        Mixture.of(training.new_data_fraction, training.per_device_train_batch_size, passes, 1)
    settings = Settings(model, data, rank, chosen_options(training), Path(str(training.output_dir)))
    rates = [training.learning_rate]
    if learning_rates is not None:
        rates = [
            learning_rate(text.strip(), "--learning_rates") for text in learning_rates.split(",")
        ]
    require_distinct(parsed, rates)
    return ComparisonPlan(settings, parsed, rates, seeds, training.max_degeneralization or BUDGET)


def compare(
    plan: ComparisonPlan, *, overwrite: bool = False, executor: Executor = in_processes
) -> dict[str, dict[str, Any]]:
    """Run the cells that are not done yet, write the report, and return its rows by name.

    Each cell's result is written once it is done, so that a comparison that was stopped goes on
    where it was. A cell that fails is named, and the others go on. With `overwrite` cells that are
    done are run again. Raises InputError for input that cannot be used, for a folder that another
    command is writing to, and at the end for failed cells.
    """
    settings = plan.settings
    folder = settings.folder
    inputs = (settings.model, settings.data, settings.training)
    with report_folder(folder, _WRITTEN, *inputs, older=_OLDER):
        table, failed = comparison_rows(plan, overwrite=overwrite, executor=executor)
        if table:
            write_atomically(folder / "comparison.json", {"budget": plan.budget, "rows": table})
            _write_report(table, plan.budget, folder)
    if failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise InputError(
            f"{len(failed)} of {len(plan.runs)} cells failed (what there is of the others "
            f"is in {folder}, and the same command tries again): {reasons}"
        )
    return table


def comparison_rows(
    plan: ComparisonPlan, *, overwrite: bool = False, executor: Executor = in_processes
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """`compare` without its report: the rows by name, and the reasons of the cells that failed."""
    settings = plan.settings
    _require_general_text(plan)
    inputs = _inputs_by_reading(plan)
    start = settings.starting_scores(next(iter(inputs.values())))
    cells = [run.cell(settings, inputs[_reading(run.method)]) for run in plan.runs]
    if overwrite:
        remove_results([*(cell.kept for cell in cells), start])
    missing = [cell for cell in cells if cell.kept.read() is None]
    warn_of_others(cell.kept for cell in missing)
    try:
        failed = run_cells(missing, executor, done=len(cells) - len(missing))
    finally:
        shutil.rmtree(settings.working_folder, ignore_errors=True)
    results = [result for cell in cells if (result := cell.kept.read()) is not None]
    if not results:
        return {}, failed
    reference = start.read()
    if reference is None:
        raise InputError(
            f"{start.path}, which all cells need, is gone: pass --overwrite_output_dir to "
            "run them again"
        )
    return pooled_rows(results, reference["scores"], plan.budget), failed


def _inputs_by_reading(plan: ComparisonPlan) -> dict[tuple[str, bool], Inputs]:
    """What the runs are made from, which methods share that read the same.

    Texts are tokenized here, or written by the model; the runs then find them in the cache.
    """
    settings = plan.settings
    said: set[str] = set()

    def say(summary: str) -> None:
        if summary not in said:
            to_standard_error(summary)
        said.add(summary)

    progress = not settings.training.get("disable_tqdm")
    texts = {}
    for method in sorted(plan.methods, key=_reading):
        if _reading(method) not in texts:
            read = settings.texts(method, progress=progress, say=say)
            texts[_reading(method)] = text_digests(read)
    model = model_digest(settings.model)
    return {reading: Inputs(model, digests) for reading, digests in texts.items()}


def _reading(method: Method) -> tuple[str, bool]:
    """By what the texts of methods differ."""
    return method.replay or "", method.ewc


def _require_general_text(plan: ComparisonPlan) -> None:
    data = plan.settings.data
    has_general = bool(data.replay) or (bool(data.general) and data.general != ["self"])
    for method in plan.methods:
        if method.needs_general_text and not has_general:
            raise InputError(
                f"--methods {method.name} trains with the help of general text: give --general or "
                "--replay, or leave it out"
            )


def comparison_summary(rows: Mapping[str, Metrics], budget: float) -> str:
    """The table, what is recommended, and what DG was measured on where nobody wrote that text.

    Where there are several results, all are held against the first one that was named.
    """
    first = next(iter(rows.values()))
    parts = [method_table(rows, budget), measured_on(first), recommendation(rows, budget)]
    differences = difference_table(ranked(rows, budget))
    if differences:
        parts += [differences, _ABOUT_DIFFERENCES]
    general = first["data"]["general"]
    if general is not None and general["sources"] == ["self"]:
        parts.append(_ABOUT_OWN_TEXT)
    return "\n\n".join(parts)


def _write_report(rows: Mapping[str, Metrics], budget: float, folder: Path) -> None:
    """What a person reads, all from the same rows: summary, page and pictures."""
    write_atomically(folder / "results.md", comparison_summary(rows, budget))
    has_general = all(metrics["degeneralization"] is not None for metrics in rows.values())
    for kind in ("png", "svg"):
        if has_general:
            save_frontier(rows, folder / f"frontier.{kind}", budget=budget)
        save_dynamics(rows, folder / f"dynamics.{kind}", budget=budget)
    # The model and the specialized text, by the last parts of their paths.
    first = next(iter(rows.values()))
    sources = ", ".join(Path(source).name for source in first["data"]["specialized"]["sources"])
    title = f"{Path(str(first['configuration']['model'])).name} on {sources}"
    write_atomically(folder / "comparison.html", comparison_page(rows, budget, title))
