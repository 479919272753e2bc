"""The verbs of the command line, from `mft train` to `mft demo`."""

import sys
from collections.abc import Callable
from pathlib import Path

from minifinetuning.cli.parsing import parsed

__all__ = ["main"]

_USAGE = """\
mft: adapt a language model to a small text without wrecking what it knows.

  mft demo                a real model on real text, FT beside MFT, in a quarter of an hour
  mft train               adapt --model to --data, written to --output_dir
  mft cache               compute the teacher ahead of `mft train`, which takes the same options
  mft compare             many methods on the same text: a table, pictures, a recommendation
  mft evaluate            what a tuned model gained (S) and lost (DG) against its reference
  mft blend               from a tuned model back towards its reference, to the loss that you allow
  mft prepare-reference   tune a model lightly on general text, so that S and DG mean something
  mft reproduce           the paper's tables and figures, ours beside the published values

`mft VERB --help` lists a verb's options; `mft VERB FILE.yaml` reads them from a file."""


def main(arguments: list[str] | None = None) -> int:
    """Run one verb and return its exit code: 0, or 2 with one sentence for input that is wrong."""
    arguments = sys.argv[1:] if arguments is None else arguments
    verbs: dict[str, Callable[[list[str]], None]] = {
        "train": train,
        "cache": cache,
        "compare": compare,
        "evaluate": evaluate,
        "blend": blend,
        "prepare-reference": prepare_reference,
        "reproduce": reproduce,
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
    from minifinetuning.environment import quieten_libraries, use_machine_well
    from minifinetuning.errors import InputError, TrainingDivergedError

    use_machine_well()
    quieten_libraries()
    try:
        verbs[verb](rest)
    except (InputError, TrainingDivergedError) as error:
        return _refuse(str(error))
    _leave_other_processes()
    return 0


def train(arguments: list[str]) -> None:
    """`mft train`."""
    model, adapter, data, training = parsed("train", arguments)
    from minifinetuning.config import AUTO
    from minifinetuning.experiments.adaptation import adapt
    from minifinetuning.experiments.run_folder import run_folder
    from minifinetuning.experiments.tau_search import adapt_with_chosen_tau
    from minifinetuning.experiments.texts import read_texts
    from minifinetuning.report import comparison_table, tau_table
    from minifinetuning.requirements import require_texts

    require_texts(training, general=data.general, replay=data.replay)
    with run_folder(training, model, data, training, *_files_of_options(arguments)):
        texts = read_texts(
            model,
            data,
            data.data,
            data.general,
            seed=training.seed,
            replay=data.replay,
            new_data_fraction=training.new_data_fraction,
            with_fisher=training.ewc_lambda > 0,
        )
        if training.tau == AUTO:
            metrics = adapt_with_chosen_tau(model, adapter, texts, training)
            print(tau_table(metrics))
        else:
            metrics = adapt(model, adapter, texts, training).metrics
    print(comparison_table({metrics["method"]: metrics}))
    print(f"step {metrics['step']} of {metrics['last_step']} was kept in {training.output_dir}")


def cache(arguments: list[str]) -> None:
    """`mft cache`."""
    model, adapter, data, options = parsed("cache", arguments)
    from minifinetuning.experiments.caching import cache_teacher

    cache_teacher(model, adapter, data, options)


def compare(arguments: list[str]) -> None:
    """`mft compare`."""
    model, options, data, training = parsed("compare", arguments)
    from minifinetuning.experiments.compare import compare as run
    from minifinetuning.experiments.compare import comparison_of
    from minifinetuning.experiments.compare.report import comparison_summary

    comparison = comparison_of(
        model,
        data,
        training,
        methods=options.methods,
        learning_rates=options.learning_rates,
        seeds=options.seeds,
        rank=options.rank,
    )
    rows = run(comparison, overwrite=training.overwrite_output_dir)
    print(comparison_summary(rows, comparison.budget))
    print(f"\npage: {comparison.settings.folder / 'comparison.html'}")


def evaluate(arguments: list[str]) -> None:
    """`mft evaluate`."""
    options, data = parsed("evaluate", arguments)
    from minifinetuning.config import ModelConfig
    from minifinetuning.experiments.two_models import compare_models
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


def blend(arguments: list[str]) -> None:
    """`mft blend`."""
    options, data = parsed("blend", arguments)
    from minifinetuning.experiments.blend import blend_models
    from minifinetuning.report.blend_card import blend_table

    metrics = blend_models(
        options.reference,
        options.tuned,
        data,
        Path(options.output_dir),
        coefficients=options.coefficients,
        budget=options.max_degeneralization,
        batch_size=options.per_device_eval_batch_size,
        seed=options.seed,
        trust_remote_code=options.trust_remote_code,
    )
    print(blend_table(metrics))
    print(f"c = {metrics['coefficient']:g} was kept in {options.output_dir}")


def prepare_reference(arguments: list[str]) -> None:
    """`mft prepare-reference`."""
    model, adapter, text, training = parsed("prepare-reference", arguments)
    from minifinetuning.experiments.reference import prepare_reference as prepare

    metrics = prepare(model, adapter, text, training)
    before, after = metrics["reference"], metrics["tuned"]
    print(
        f"general perplexity {before['general_perplexity']:.2f} before, "
        f"{after['general_perplexity']:.2f} after step {metrics['step']}, "
        f"which was kept in {training.output_dir}"
    )


def reproduce(arguments: list[str]) -> None:
    """`mft reproduce`."""
    (options,) = parsed("reproduce", arguments)
    from minifinetuning.experiments.paper.listing import dry_run, listing
    from minifinetuning.experiments.paper.report import write_paper_report
    from minifinetuning.experiments.paper.request import reproduction_of, schedule_of
    from minifinetuning.experiments.paper.runner import reproduce as run

    reproduction = reproduction_of(options)
    if options.list:
        print(listing(reproduction.plan))
    elif options.dry_run:
        print(dry_run(reproduction))
    else:
        outcome = run(reproduction, schedule_of(options), overwrite=options.overwrite_output_dir)
        print(write_paper_report(reproduction, outcome.results))
        outcome.require_complete()


def demo(arguments: list[str]) -> None:
    """`mft demo`."""
    (options,) = parsed("demo", arguments)
    from minifinetuning.experiments.demo import run_demo

    run_demo(
        Path(options.output_dir),
        data=options.data,
        model=options.model,
        prepare=options.prepare,
        steps=options.steps,
    )


def _files_of_options(arguments: list[str]) -> list[Path]:
    """The YAML file that a verb was given in place of options."""
    return [Path(word) for word in arguments[:1] if word.endswith((".yaml", ".yml"))]


def _leave_other_processes() -> None:
    """Under a launcher: all at once, since a process that leaves its group alone may abort."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def _refuse(message: str) -> int:
    from tqdm import tqdm

    # Below a progress bar that may still be open, not behind it.
    tqdm.write(f"mft: {message}", file=sys.stderr)
    return 2
