"""A reproduction: which cells, under which protocol, from what text, and where results lie."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from minifinetuning.errors import InputError
from minifinetuning.files import cache_folder
from minifinetuning.lab.contents import digest_of, files_content, model_files_content
from minifinetuning.lab.kept_results import KeptResult, results_called
from minifinetuning.lab.paper.cells import PaperCell, slug
from minifinetuning.lab.paper.datasets import (
    GENERAL,
    PaperDataset,
    dataset_named,
    local_text,
)
from minifinetuning.lab.paper.models import PaperModel, paper_model
from minifinetuning.lab.paper.plan import Plan
from minifinetuning.lab.paper.protocol import Protocol
from minifinetuning.lab.paper.samples import LONGEST, PORTION, SEED
from minifinetuning.training.provenance import MEASURE

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
        return self.report_folder / slug(model)

    @property
    def report_folder(self) -> Path:
        """Where tables and figures lie, above the results of the models."""
        return self.folder / self.protocol.name

    def reference_folder(self, model: str) -> Path:
        """Where the reference of a model lies, or will once it is prepared."""
        if self.reference is not None:
            return self.reference
        name = f"{slug(self.model(model).name)}-{self.reference_content(model)[:12]}"
        return cache_folder() / "references" / name

    def reference_content(self, model: str) -> str:
        """A digest of the reference that is given, or of all that one is made from."""
        if self.reference is not None:
            return self._known(self.reference, model_files_content)
        known = self.model(model)
        place = Path(known.hub).expanduser()
        base = self._known(place, model_files_content) if place.exists() else known.hub
        general, dtype = self.text_content(GENERAL), self.machine.dtype
        return digest_of(
            [base, known.tokenizer, asdict(self.protocol), self.seed, general, dtype, MEASURE]
        )

    def text_content(self, dataset: PaperDataset) -> str:
        """A digest of a text in `corpora`, or of which sample of the hub it is."""
        if self.corpora is None:
            # The revision is part of the path.
            return digest_of(
                [dataset.path, dataset.files, dataset.text_field, SEED, PORTION, LONGEST]
            )
        return self._known(local_text(dataset, self.corpora), files_content)

    def kept(self, cell: PaperCell) -> KeptResult:
        """The place of a cell's result, with everything that it depends on."""
        identity = {
            "measure": MEASURE,
            "protocol": asdict(self.protocol),
            "cell": asdict(cell),
            "seed": self.seed,
            "dtype": self.machine.dtype,
            "reference": self.reference_content(cell.model),
            "texts": {
                "specialized": self.text_content(dataset_named(cell.dataset)),
                "general": self.text_content(GENERAL),
            },
        }
        return KeptResult(self.result_path(cell), identity)

    def _known(self, place: Path, content: Callable[[Path], str]) -> str:
        """The content of a place, looked at once: there are hundreds of cells."""
        if place not in self._contents:
            self._contents[place] = content(place)
        return self._contents[place]

    @cached_property
    def _contents(self) -> dict[Path, str]:
        return {}


def result_of(cell: PaperCell, reproduction: Reproduction) -> dict[str, Any] | None:
    """The result of a cell that is done; None where it is not.

    Raises InputError where a file of its name is damaged.
    """
    if not results_called(reproduction.result_path(cell)):
        # Where nothing is, no text has to be there to compare with.
        return None
    return reproduction.kept(cell).read()
