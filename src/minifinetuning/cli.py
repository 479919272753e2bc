"""The verbs of the command line: `mft train`, `cache`, `evaluate`, `prepare-reference`, `demo`."""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

__all__ = ["main"]

_USAGE = """\
mft: adapt a language model to a small text without wrecking what it knows.

  mft demo                a real model on real text, FT beside MFT, in a quarter of an hour
  mft train               adapt --model to --data, written to --output_dir
  mft cache               compute the teacher ahead of `mft train`, which takes the same options
  mft evaluate            what a tuned model gained (S) and lost (DG) against its reference
  mft prepare-reference   tune a model lightly on general text, so that S and DG mean something

`mft VERB --help` lists a verb's options; `mft VERB FILE.yaml` reads them from a file."""


def main(arguments: list[str] | None = None) -> int:
    """Run one verb and return its exit code: 0, or 2 with one sentence for input that is wrong."""
    arguments = sys.argv[1:] if arguments is None else arguments
    verbs: dict[str, Callable[[list[str]], None]] = {
        "train": train,
        "cache": cache,
        "evaluate": evaluate,
        "prepare-reference": prepare_reference,
        "demo": demo,
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return 0
    if arguments[0] == "--version":
        from minifinetuning import __version__

        print(f"minifinetuning {__version__}")
        return 0
    verb, *rest = arguments
    if verb not in verbs:
        return _refuse(f"unknown verb {verb!r}: choose one of {', '.join(verbs)}")
    from minifinetuning.errors import InputError, TrainingDivergedError

    _use_machine_well()
    _quieten_libraries()
    try:
        verbs[verb](rest)
    except (InputError, TrainingDivergedError) as error:
        return _refuse(str(error))
    _leave_other_processes()
    return 0


def train(arguments: list[str]) -> None:
    """`mft train`."""
    from minifinetuning.config import AdapterConfig, DataConfig, MFTConfig, ModelConfig

    model, adapter, data, training = _parsed(
        "train", (ModelConfig, AdapterConfig, DataConfig, MFTConfig), arguments
    )
    from minifinetuning.experiments.adaptation import adapt, read_texts, require_folder
    from minifinetuning.report import comparison_table
    from minifinetuning.trainer import require_measurable

    require_measurable(training, with_general=bool(data.general))
    require_folder(training)
    texts = read_texts(model, data, data.data, data.general, seed=training.seed)
    metrics = adapt(model, adapter, texts, training).metrics
    print(comparison_table({metrics["method"]: metrics}))
    print(f"step {metrics['step']} of {metrics['last_step']} was kept in {training.output_dir}")


def cache(arguments: list[str]) -> None:
    """`mft cache`."""
    from minifinetuning.config import AdapterConfig, CacheConfig, DataConfig, ModelConfig

    model, adapter, data, options = _parsed(
        "cache", (ModelConfig, AdapterConfig, DataConfig, CacheConfig), arguments
    )
    from minifinetuning.experiments.caching import cache_teacher

    cache_teacher(model, adapter, data, options)


def evaluate(arguments: list[str]) -> None:
    """`mft evaluate`."""
    from minifinetuning.config import DataConfig, ModelConfig

    options, data = _parsed("evaluate", (EvaluationOptions, DataConfig), arguments)
    from minifinetuning.experiments.comparison import compare_models
    from minifinetuning.report import comparison_table

    metrics = compare_models(
        ModelConfig(options.model, trust_remote_code=options.trust_remote_code),
        ModelConfig(options.reference, trust_remote_code=options.trust_remote_code),
        data,
        batch_size=options.per_device_eval_batch_size,
        seed=options.seed,
        output=None if options.output is None else Path(options.output),
    )
    print(comparison_table({"tuned": metrics}))


def prepare_reference(arguments: list[str]) -> None:
    """`mft prepare-reference`."""
    from minifinetuning.config import AdapterConfig, GeneralConfig, ModelConfig, ReferenceConfig

    model, adapter, text, training = _parsed(
        "prepare-reference", (ModelConfig, AdapterConfig, GeneralConfig, ReferenceConfig), arguments
    )
    from minifinetuning.experiments.reference import prepare_reference as prepare

    metrics = prepare(model, adapter, text, training)
    before, after = metrics["reference"], metrics["tuned"]
    print(
        f"general perplexity {before['general_perplexity']:.2f} before, "
        f"{after['general_perplexity']:.2f} after step {metrics['step']}, "
        f"which was kept in {training.output_dir}"
    )


def demo(arguments: list[str]) -> None:
    """`mft demo`."""
    (options,) = _parsed("demo", (DemoOptions,), arguments)
    from minifinetuning.experiments.demo import run_demo

    run_demo(
        Path(options.output_dir),
        data=options.data,
        model=options.model,
        prepare=options.prepare,
        steps=options.steps,
    )


@dataclass
class EvaluationOptions:
    """What `mft evaluate` compares."""

    _argument_group_name: ClassVar[str] = "models"

    model: str = field(metadata={"help": "The tuned model: a folder or a hub id."})
    reference: str = field(metadata={"help": "The model that it was tuned from."})
    output: str | None = field(
        default=None, metadata={"help": "Write the figures to this JSON file too."}
    )
    per_device_eval_batch_size: int = field(default=8, metadata={"help": "Sequences at a time."})
    seed: int = field(default=42, metadata={"help": "Seed of the split: that of the training run."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run Python code that the model's folder brings along."}
    )


@dataclass
class DemoOptions:
    """What `mft demo` may be asked for."""

    _argument_group_name: ClassVar[str] = "demo"

    data: list[str] | None = field(
        default=None, metadata={"help": "Your own documents in place of MEDLINE."}
    )
    model: str | None = field(
        default=None, metadata={"help": "A model folder or hub id in place of SmolLM2-135M."}
    )
    output_dir: str = field(default="demo", metadata={"help": "Where the results are written."})
    prepare: bool = field(
        default=False, metadata={"help": "Prepare the reference anew in place of the shipped one."}
    )
    steps: int = field(default=40, metadata={"help": "Training steps of about 1,000 tokens."})


_COMMON_TRAINING_FIELDS = {
    *("objective", "tau", "kl_weight", "max_degeneralization", "target_specialization", "patience"),
    *("teacher_cache", "freeze_head"),
    *("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "report_to", "seed"),
    *("max_steps", "num_train_epochs", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "learning_rate", "lr_scheduler_type", "warmup_steps"),
    *("eval_steps", "save_steps", "bf16", "gradient_checkpointing"),
}


def _parsed(verb: str, types: tuple[Any, ...], arguments: list[str]) -> tuple[Any, ...]:
    """Instances of the dataclasses, from the options or from one YAML file of them.

    The help is grouped by dataclass and leaves out the rarer fields of TrainingArguments.
    """
    from transformers import HfArgumentParser, TrainingArguments

    from minifinetuning.errors import InputError

    training = [kind for kind in types if issubclass(kind, TrainingArguments)]
    parser = HfArgumentParser(
        types,
        prog=f"mft {verb}",
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
        epilog=(
            "Every other field of transformers.TrainingArguments is an option too."
            if training
            else None
        ),
    )
    rare = {name for kind in training for name in kind.__dataclass_fields__}
    for action in parser._actions:
        # HfArgumentParser adds a --no_ twin to every flag that is on by default.
        if action.dest in rare - _COMMON_TRAINING_FIELDS or "--no_" in str(action.option_strings):
            action.help = argparse.SUPPRESS
    if len(arguments) == 1 and arguments[0].endswith((".yaml", ".yml")):
        return _from_yaml(parser, arguments[0])
    known, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise InputError(f"unknown option {unknown[0]}: see mft {verb} --help")
    return tuple(parser.parse_dict(vars(known)))


def _from_yaml(parser: Any, path: str) -> tuple[Any, ...]:
    from minifinetuning.errors import InputError

    if not os.path.isfile(path):
        raise InputError(f"{path} does not exist: name a YAML file of options")
    try:
        return tuple(parser.parse_yaml_file(path))
    except InputError:
        raise
    except Exception as error:  # YAML's own errors, unknown keys, missing ones: all are the file's
        raise InputError(f"{path}: {' '.join(str(error).split())}") from error


class _HelpFormatter(argparse.HelpFormatter):
    """One short line per option, the default at its end where there is one worth saying."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=100)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if action.default in (None, False, argparse.SUPPRESS) or action.required:
            return text
        return f"{text} [%(default)s]"

    def _format_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any) -> str:
        return f"usage: {self._prog} --option value ...\n\n"

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        name = action.option_strings[0] if action.dest != "help" else "--help"
        return f"{name} {self._format_args(action, '')}".rstrip()

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        return "..." if action.nargs == "+" else ""


def _use_machine_well() -> None:
    """Before torch is imported: large pages, and a thread for each physical core."""
    # A chunk of logits is hundreds of megabytes: in small pages its first use is mostly faults.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    import psutil

    # Two threads of one core share its arithmetic units, and only wait for each other there.
    cores = psutil.cpu_count(logical=False)
    if cores is not None:
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
        os.environ.setdefault("OMP_NUM_THREADS", str(min(cores, allowed)))


def _quieten_libraries() -> None:
    """Their warnings are for programmers; a person at the command line gets ours."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    import logging
    import warnings

    import datasets
    import transformers

    logging.getLogger("transformers").setLevel(logging.ERROR)
    logging.getLogger("datasets").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("minifinetuning").setLevel(logging.INFO)


def _leave_other_processes() -> None:
    """Under a launcher: together, since the threads of gloo and NCCL abort a process they outlive."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def _refuse(message: str) -> int:
    from tqdm import tqdm

    # Below a progress bar that may still be open, not behind it.
    tqdm.write(f"mft: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
