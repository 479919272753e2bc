"""A reproduction: which cells, under which protocol, from what text, and where results lie."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from minifinetuning.errors import InputError
from minifinetuning.experiments.paper.cells import PaperCell, slug
from minifinetuning.experiments.paper.datasets import GENERAL, dataset_named, local_text
from minifinetuning.experiments.paper.models import PaperModel, paper_model
from minifinetuning.experiments.paper.plan import Plan
from minifinetuning.experiments.paper.protocol import Protocol
from minifinetuning.files import cache_folder

__all__ = ["Machine", "Reproduction", "result_of"]


@dataclass(frozen=True)
class Machine:
    """How a cell is fitted to the hardware, which changes no figure beyond rounding."""

    dtype: str = "float32"
    per_device_train_batch_size: int | None = None
    gradient_checkpointing: bool = False
    bf16: bool | None = None

    def batches(self, sequences: int) -> tuple[int, int]:
        """Sequences of a forward pass, and the passes that make a step of `sequences`.

        Raises InputError where a step cannot be cut into such passes.
        """
        size = self.per_device_train_batch_size or min(sequences, 4)
        if size < 1 or sequences % size:
            raise InputError(
                f"--per_device_train_batch_size {size} does not divide the protocol's step of "
                f"{sequences} sequences: choose one that does"
            )
        return size, sequences // size


@dataclass(frozen=True)
class Reproduction:
    """What `mft reproduce` was asked for.

    `other_model` is one that the paper does not have; `reference` is a prepared checkpoint to start
    from in place of making one.
    """

    plan: Plan
    protocol: Protocol
    folder: Path
    other_model: PaperModel | None = None
    corpora: Path | None = None
    reference: Path | None = None
    seed: int = 42
    machine: Machine = field(default_factory=Machine)

    def model(self, name: str) -> PaperModel:
        """The model that cells call by this name."""
        other = self.other_model
        return other if other is not None and other.name == name else paper_model(name)

    def result_path(self, cell: PaperCell) -> Path:
        """`OUT/PROTOCOL/MODEL/DATASET/CELL.json`."""
        dataset = dataset_named(cell.dataset).key
        return self.model_folder(cell.model) / dataset / f"{cell.name}.json"

    def model_folder(self, model: str) -> Path:
        """Where the results of a model lie."""
        return self.folder / self.protocol.name / slug(model)

    def reference_folder(self, model: str) -> Path:
        """Where the reference of a model lies, or will once it is prepared."""
        if self.reference is not None:
            return self.reference
        known = self.model(model)
        general = None
        if self.corpora is not None:
            source = local_text(GENERAL, self.corpora)
            # By name and size, not by place: the same on every machine.
            general = [source.name, source.stat().st_size]
        key = [known.hub, asdict(self.protocol), self.seed, general, self.machine.dtype]
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]
        return cache_folder() / "references" / f"{slug(known.name)}-{digest}"

    def identity(self, cell: PaperCell) -> dict[str, Any]:
        """What a result depends on, beside the specialized text that its name stands for."""
        return {
            "protocol": asdict(self.protocol),
            "cell": asdict(cell),
            "seed": self.seed,
            "reference": self.reference_folder(cell.model).name,
        }


def result_of(cell: PaperCell, reproduction: Reproduction) -> dict[str, Any] | None:
    """The result of a cell that is done; None where it is not.

    Raises InputError where the file is of another protocol or seed, or damaged.
    """
    path = reproduction.result_path(cell)
    if not path.exists():
        return None
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = result["identity"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is damaged: remove it, and it is computed again") from None
    expected = json.loads(json.dumps(reproduction.identity(cell)))
    if found != expected:
        differing = ", ".join(name for name in expected if found.get(name) != expected[name])
        raise InputError(
            f"{path} is of another {differing}: name another --output_dir, or pass "
            "--overwrite_output_dir"
        )
    return result
