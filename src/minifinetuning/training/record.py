"""What `metrics.json` says of a run: its figures, and all that they were obtained with."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from minifinetuning.evaluation.comparison import comparison, measurements
from minifinetuning.models.config import AdapterConfig, ModelConfig
from minifinetuning.models.loading import HELD_IN
from minifinetuning.training.callbacks import Stopwatch
from minifinetuning.training.texts import Texts
from minifinetuning.training.trainer import MFTTrainer

__all__ = ["MEASURE", "commit", "run_record", "without_places"]

MEASURE = 2
"""To be raised where figures come to mean something else, so that older ones are not taken for new.

1 counted what is put in around documents, 2 counts text alone.
"""

_PACKAGES = ("minifinetuning", "torch", "transformers", "peft", "accelerate", "datasets")

_EVALUATED = (
    "specialized_perplexity",
    "general_perplexity",
    "specialization",
    "degeneralization",
    "ratio",
    "forward_kl",
)
"""What the history says of each evaluation."""


def run_record(
    trainer: MFTTrainer,
    stopwatch: Stopwatch,
    model: ModelConfig,
    adapter: AdapterConfig,
    texts: Texts,
) -> dict[str, Any]:
    """The content of metrics.json."""
    assert trainer.reference is not None
    training = trainer.args
    method = f"{adapter.adapter}+{training.objective}" if adapter.adapter else training.objective
    configuration = {"model": model.model, "dtype": model.dtype or HELD_IN, **training.summary()}
    if adapter.adapter:
        configuration |= {"adapter": adapter.adapter, "rank": adapter.rank}
    # Of all processes; none in a resumed run that did nothing.
    sequences = training.sequences_per_step * (1 + (training.replay_share or 0))
    tokens = stopwatch.steps * sequences * texts.sequence_length
    return {
        "method": method,
        **comparison(trainer.reference, trainer.kept_scores()),
        "step": trainer.kept_step,
        "last_step": trainer.state.global_step,
        "stopped": trainer.budget.reason,
        "history": _history(trainer),
        "data": texts.summary(),
        "configuration": configuration,
        "full_configuration": training.to_dict(),
        "versions": _versions(),
        "device": _device_name(training.device),
        "teacher": None if trainer.cache_plan is None else trainer.cache_plan.summary(),
        "seed": training.seed,
        "tokens_per_second": tokens / stopwatch.seconds if tokens else None,
    }


def _history(trainer: MFTTrainer) -> list[dict[str, Any]]:
    """One entry per evaluation, the reference as step 0."""
    assert trainer.reference is not None
    start = measurements(trainer.reference, trainer.reference)
    known = {name: start[name] for name in _EVALUATED if name in start and name != "forward_kl"}
    entries = [{"step": 0} | known]
    for log in trainer.state.log_history:
        if "eval_specialization" in log and log["step"] > 0:
            values = {name: log.get(f"eval_{name}") for name in _EVALUATED}
            known = {name: value for name, value in values.items() if value is not None}
            entries.append({"step": log["step"]} | known)
    return entries


def _versions() -> dict[str, str]:
    """Of Python and of the packages that a result depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def _device_name(device: torch.device) -> str:
    """The GPU by its name, or the CPU with its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def without_places(record: Any) -> Any:
    """A result with the last part of each absolute path in place of the path.

    Results are kept and shown; how the disk of their machine is laid out says nothing of them.
    """
    if isinstance(record, dict):
        return {name: without_places(value) for name, value in record.items()}
    if isinstance(record, list):
        return [without_places(value) for value in record]
    return Path(record).name if isinstance(record, str) and Path(record).is_absolute() else record


def commit() -> str | None:
    """The commit that this package is checked out at, with + where files differ from it.

    None where it was installed in another way.
    """
    file = Path(__file__)

    def git(*words: str) -> str:
        command = ["git", "-C", str(file.parent), *words]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        return ended.stdout.strip()

    try:
        # Installed inside somebody else's repository, its commit says nothing of this package.
        git("ls-files", "--error-unmatch", file.name)
        return git("describe", "--always", "--dirty=+", "--abbrev=12")
    except (OSError, subprocess.CalledProcessError):
        return None
