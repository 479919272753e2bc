"""From the options of `mft reproduce` to a reproduction and the schedule that runs it."""

from pathlib import Path
from typing import Any

from minifinetuning.errors import InputError
from minifinetuning.lab.paper.datasets import dataset_named
from minifinetuning.lab.paper.models import PAPER_MODELS, TINY, paper_model
from minifinetuning.lab.paper.plan import plan_of
from minifinetuning.lab.paper.protocol import PAPER, protocol_named
from minifinetuning.lab.paper.ray_schedule import on_ray
from minifinetuning.lab.paper.reproduction import Machine, Reproduction
from minifinetuning.lab.processes import Schedule, one_by_one
from minifinetuning.models.config import DTYPES
from minifinetuning.options import require_choice

__all__ = ["reproduction_of", "schedule_of"]


def reproduction_of(options: Any) -> Reproduction:
    """What was asked for. Raises InputError, naming the option, for what cannot be.

    `options` has the fields of `cli.options.ReproductionOptions`.
    """
    require_choice("executor", options.executor, ["local", "ray"])
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
    machine = Machine(
        dtype=options.dtype,
        per_device_train_batch_size=options.per_device_train_batch_size,
        gradient_checkpointing=options.gradient_checkpointing,
        bf16=options.bf16,
    )
    reproduction = Reproduction(
        plan,
        protocol_named(protocol),
        Path(options.output_dir),
        other_model=None if model is None or model.name in PAPER_MODELS else model,
        corpora=_folder("--corpora", options.corpora),
        reference=_folder("--reference", options.reference),
        seed=options.seed,
        machine=machine,
    )
    shows = options.list or options.dry_run
    if not (shows or options.table or options.figure):
        raise InputError(
            "all tables and figures are hundreds of cells and many days of a GPU: name a part with "
            "--table or --figure; --list says what there is, --dry_run what it would take"
        )
    return reproduction


def schedule_of(options: Any) -> Schedule:
    """How the tasks are run. Raises InputError for an executor that is not known."""
    if options.executor == "local":
        given = {"gpus_per_cell": None, "cpus_per_cell": 1.0, "ray_address": None}
        for name, default in given.items():
            if getattr(options, name) != default:
                raise InputError(f"--{name} is for --executor ray: leave it out, or name that")
        return one_by_one()
    require_choice("executor", options.executor, ["ray"])
    return on_ray(
        gpus=options.gpus_per_cell, cpus=options.cpus_per_cell, address=options.ray_address
    )


def _folder(option: str, path: str | None) -> Path | None:
    if path is None:
        return None
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise InputError(f"{option} {path} is not a folder: check the path")
    if option == "--reference" and not (folder / "config.json").is_file():
        raise InputError(f"{option} {path} holds no config.json: give a folder of a whole model")
    return folder.resolve()
