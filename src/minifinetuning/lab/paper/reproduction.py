"""A reproduction: which cells, under which protocol, from what text, and where results lie."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from minifinetuning.errors import InputError
from minifinetuning.files import cache_folder
from minifinetuning.lab.cells import KeptResult
from minifinetuning.lab.digests import digest_of, files_digest, model_files_digest
from minifinetuning.lab.paper.cells import PaperCell, slug
from minifinetuning.lab.paper.datasets import (
    GENERAL,
    PaperDataset,
    dataset_named,
    hub_sample,
    local_text,
)
from minifinetuning.lab.paper.models import PAPER_MODELS, TINY, PaperModel, paper_model, tiny_model
from minifinetuning.lab.paper.plan import Plan, plan_of
from minifinetuning.lab.paper.protocol import PAPER, Protocol, protocol_named
from minifinetuning.lab.paper.samples import LONGEST, PORTION, SEED
from minifinetuning.models.config import DTYPES, ModelConfig
from minifinetuning.models.loading import load_tokenizer
from minifinetuning.options import require_choice
from minifinetuning.training.record import MEASURE

__all__ = ["Reproduction", "requested_reproduction"]


@dataclass(frozen=True)
class Reproduction:
    """What `mft reproduce` was asked for.

    `other_model` is one that the paper does not have; `reference` is a prepared checkpoint to start
    from in place of making one. What follows the seed fits cells to the hardware, and changes no
    figure beyond rounding.
    """

    plan: Plan
    protocol: Protocol
    folder: Path
    other_model: PaperModel | None = None
    corpora: Path | None = None
    reference: Path | None = None
    seed: int = 42
    dtype: str = "float32"
    per_device_train_batch_size: int | None = None
    gradient_checkpointing: bool = False
    bf16: bool | None = None

    def model(self, name: str) -> PaperModel:
        """The model that cells call by this name."""
        other = self.other_model
        return other if other is not None and other.name == name else paper_model(name)

    def batches(self) -> tuple[int, int]:
        """Sequences of a forward pass, and the passes that make a step of the protocol.

        Raises InputError where a step cannot be cut into such passes.
        """
        sequences = self.protocol.sequences
        size = self.per_device_train_batch_size or min(sequences, 4)
        if size < 1 or sequences % size:
            raise InputError(
                f"--per_device_train_batch_size {size} does not divide the protocol's step of "
                f"{sequences} sequences: choose one that does"
            )
        return size, sequences // size

    def starting_model(self, name: str) -> ModelConfig:
        """The published weights, before the reference is prepared."""
        model = self.model(name)
        place = model.hub
        if place == TINY:
            if self.corpora is None:
                raise InputError(
                    f"{GENERAL.name} can only be streamed where a tokenizer counts its tokens, and "
                    f"--model {TINY} learns its own: pass --corpora DIR"
                )
            general = [str(local_text(GENERAL, self.corpora))]
            place = str(tiny_model(general, cache_folder(), self.seed))
        return ModelConfig(place, dtype=self.dtype, tokenizer=model.tokenizer)

    def text(self, dataset: PaperDataset, model: str) -> list[str]:
        """The text of a dataset, the same for all cells of a model, whatever their budget.

        It is fetched where it is not here yet. Raises InputError where it cannot be.
        """
        if self.corpora is not None:
            return [str(local_text(dataset, self.corpora))]
        protocol = self.protocol
        largest = max(2 * protocol.train_tokens, protocol.reference_tokens)
        sample = hub_sample(
            dataset,
            load_tokenizer(self.starting_model(model)),
            largest + 2 * protocol.validation_tokens,
            cache_folder() / "paper",
        )
        return [str(sample)]

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
        name = f"{slug(self.model(model).name)}-{self.reference_digest(model)[:12]}"
        return cache_folder() / "references" / name

    def reference_digest(self, model: str) -> str:
        """A digest of the reference that is given, or of all that one is made from."""
        if self.reference is not None:
            return self._known(self.reference, model_files_digest)
        known = self.model(model)
        place = Path(known.hub).expanduser()
        base = self._known(place, model_files_digest) if place.exists() else known.hub
        general, dtype = self.text_digest(GENERAL), self.dtype
        return digest_of(
            [base, known.tokenizer, asdict(self.protocol), self.seed, general, dtype, MEASURE]
        )

    def text_digest(self, dataset: PaperDataset) -> str:
        """A digest of a text in `corpora`, or of which sample of the hub it is."""
        if self.corpora is None:
            # The revision is part of the path.
            return digest_of(
                [dataset.path, dataset.files, dataset.text_field, SEED, PORTION, LONGEST]
            )
        return self._known(local_text(dataset, self.corpora), files_digest)

    def kept(self, cell: PaperCell) -> KeptResult:
        """The place of a cell's result, with everything that it depends on."""
        return KeptResult(self.result_path(cell), partial(self._identity, cell))

    def _identity(self, cell: PaperCell) -> dict[str, Any]:
        return {
            "measure": MEASURE,
            "protocol": asdict(self.protocol),
            "cell": asdict(cell),
            "seed": self.seed,
            "dtype": self.dtype,
            "reference": self.reference_digest(cell.model),
            "texts": {
                "specialized": self.text_digest(dataset_named(cell.dataset)),
                "general": self.text_digest(GENERAL),
            },
        }

    def _known(self, place: Path, digest: Callable[[Path], str]) -> str:
        """The digest of a place, looked at once: there are hundreds of cells."""
        if place not in self._digests:
            self._digests[place] = digest(place)
        return self._digests[place]

    @cached_property
    def _digests(self) -> dict[Path, str]:
        return {}


def requested_reproduction(options: Any) -> Reproduction:
    """What was asked for. Raises InputError, naming the option, for what cannot be.

    `options` has the fields of `cli.options.ReproductionOptions`.
    """
    require_choice("dtype", options.dtype, DTYPES)
    model = None if options.model is None else paper_model(options.model)
    protocol = options.protocol or (TINY if options.model == TINY else PAPER.name)
    plan = plan_of(
        table=options.table,
        figure=options.figure,
        model=None if model is None else model.name,
        dataset=None if options.dataset is None else dataset_named(options.dataset).name,
        method=options.method,
        values=options.values,
    )
    reproduction = Reproduction(
        plan,
        protocol_named(protocol),
        Path(options.output_dir),
        other_model=None if model is None or model.name in PAPER_MODELS else model,
        corpora=_folder("--corpora", options.corpora),
        reference=_folder("--reference", options.reference),
        seed=options.seed,
        dtype=options.dtype,
        per_device_train_batch_size=options.per_device_train_batch_size,
        gradient_checkpointing=options.gradient_checkpointing,
        bf16=options.bf16,
    )
    shows = options.list or options.dry_run
    if not (shows or options.table or options.figure):
        raise InputError(
            "all tables and figures are hundreds of cells and many days of a GPU: name a part with "
            "--table or --figure; --list says what there is, --dry_run what it would take"
        )
    return reproduction


def _folder(option: str, path: str | None) -> Path | None:
    if path is None:
        return None
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise InputError(f"{option} {path} is not a folder: check the path")
    if option == "--reference" and not (folder / "config.json").is_file():
        raise InputError(f"{option} {path} holds no config.json: give a folder of a whole model")
    return folder.resolve()
