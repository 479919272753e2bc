"""The verbs of the command line, from `mft train` to `mft demo`."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["how_to_go_on", "main"]

_USAGE = """\
mft: adapt a language model to a small text without wrecking what it knows.

  mft demo                a real model on real text, FT beside MFT, in twelve minutes
  mft train               adapt --model to --data, written to --output_dir
  mft cache               compute the teacher ahead of `mft train`, given its model and texts
  mft write               write the text of `--replay self` and `--general self` ahead of it
  mft compare             many methods on the same text: a table, pictures, a recommendation
  mft evaluate            what a tuned model gained (S) and lost (DG) against its reference
  mft blend               from a tuned model back towards its reference, to the loss that you allow
  mft prepare-reference   tune a model lightly on general text, so that S and DG mean something
  mft reproduce           the paper's tables and figures, ours beside the published values

`mft VERB --help` lists a verb's options; `mft VERB FILE.yaml --option value` reads them from a file
first."""


def main(arguments: list[str] | None = None) -> int:
    """Run one verb and return its exit code.

    0; 2 with one sentence for input that is wrong; 130 with one that says how to go on, where a
    person interrupts.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return 0
    if arguments[0] == "--version":
        from minifinetuning import __version__

        print(f"minifinetuning {__version__}")
        return 0
    from minifinetuning.errors import InputError, TrainingDivergedError, did_you_mean

    verb, *words = arguments
    if verb not in _VERBS:
        return _refuse(f"unknown verb {verb}{did_you_mean(verb, _VERBS)}")
    options: tuple[Any, ...] = ()
    try:
        _set_up_process()
        if verb == "cache" and ("--list" in words or "--prune" in words):
            _print_kept_teachers(words)
            return 0
        from minifinetuning.cli.parsing import parsed

        options = parsed(verb, words)
        _VERBS[verb](*options)
        _leave_other_processes()
    except (InputError, TrainingDivergedError) as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        if int(os.environ.get("RANK", "0")) == 0:
            _say(f"interrupted: {how_to_go_on(verb, options)}")
        return 130
    return 0


def train(model: Any, adapter: Any, data: Any, training: Any) -> None:
    """`mft train`."""
    from minifinetuning.evaluation.scores import GENERAL, SPECIALIZED
    from minifinetuning.report import comparison_table, measured_on, tau_table
    from minifinetuning.training.config import AUTO
    from minifinetuning.training.folder import run_folder
    from minifinetuning.training.requirements import require_texts
    from minifinetuning.training.run import adapt
    from minifinetuning.training.tau_search import adapt_with_chosen_tau
    from minifinetuning.training.texts import TextNeeds, read_texts

    validation = {SPECIALIZED: data.data, GENERAL: data.general or None}
    require_texts(training, validation, replay=data.replay, fisher=data.replay or data.general)
    with run_folder(training, model, adapter, data, training):
        fisher = data.general if training.ewc_lambda > 0 else None
        needs = TextNeeds(
            training.seed,
            new_data_fraction=training.new_data_fraction,
            replay_share=training.replay_share,
            fisher=fisher,
        )
        texts = read_texts(model, data, needs)
        if training.tau == AUTO:
            metrics = adapt_with_chosen_tau(model, adapter, texts, training)
        else:
            metrics, _ = adapt(model, adapter, texts, training)
    if training.process_index > 0:
        return
    if training.tau == AUTO:
        print(tau_table(metrics))
    print(comparison_table({metrics["method"]: metrics}))
    print(measured_on(metrics))
    print(f"step {metrics['step']} of {metrics['last_step']} was kept in {training.output_dir}")


def cache(model: Any, adapter: Any, data: Any, options: Any) -> None:
    """`mft cache`."""
    from minifinetuning.training.caching import cache_teacher

    cache_teacher(model, adapter, data, options)


def write(model: Any, data: Any, options: Any) -> None:
    """`mft write`."""
    from minifinetuning.training.written import write_text

    write_text(model, data, options)


def _print_kept_teachers(words: list[str]) -> None:
    """`mft cache --list` and `mft cache --prune`, which need neither model nor text."""
    from minifinetuning.errors import InputError
    from minifinetuning.training.caching import listed_teachers, pruned_teachers

    option = "--list" if "--list" in words else "--prune"
    if len(words) > 1:
        raise InputError(f"{option} stands alone: mft cache {option}")
    print(listed_teachers() if option == "--list" else pruned_teachers())


def compare(model: Any, options: Any, data: Any, training: Any, where: Any) -> None:
    """`mft compare`."""
    from minifinetuning.lab.compare import compare as run
    from minifinetuning.lab.compare import comparison_plan, comparison_summary
    from minifinetuning.lab.executors import executor_from

    plan = comparison_plan(
        model,
        data,
        training,
        methods=options.methods,
        learning_rates=options.learning_rates,
        seeds=options.seeds,
        rank=options.rank,
    )
    executor = executor_from(where)
    rows = run(plan, overwrite=training.overwrite_output_dir, executor=executor)
    print(comparison_summary(rows, plan.budget))
    print(f"\npage: {plan.settings.folder / 'comparison.html'}")


def evaluate(options: Any, data: Any) -> None:
    """`mft evaluate`."""
    from minifinetuning.lab.evaluate import evaluate_models
    from minifinetuning.models.config import ModelConfig
    from minifinetuning.report import comparison_table, measured_on, with_unprepared_note

    held: Any = {"dtype": options.dtype, "trust_remote_code": options.trust_remote_code}
    metrics = evaluate_models(
        ModelConfig(options.model, **held),
        ModelConfig(options.reference, **held),
        data,
        batch_size=options.per_device_eval_batch_size,
        seed=options.seed,
        output=None if options.output is None else Path(options.output),
    )
    print(comparison_table({"tuned": metrics}))
    print(with_unprepared_note(measured_on(metrics), metrics))


def blend(options: Any, data: Any) -> None:
    """`mft blend`."""
    from minifinetuning.blending.search import blend_models
    from minifinetuning.report import blend_table

    metrics = blend_models(
        options.reference,
        options.tuned,
        data,
        Path(options.output_dir),
        coefficients=options.coefficients,
        budget=options.max_degeneralization,
        batch_size=options.per_device_eval_batch_size,
        seed=options.seed,
        dtype=options.dtype,
        trust_remote_code=options.trust_remote_code,
    )
    print(blend_table(metrics))
    print(f"c = {metrics['coefficient']:g} was kept in {options.output_dir}")


def prepare_reference(model: Any, adapter: Any, text: Any, training: Any) -> None:
    """`mft prepare-reference`."""
    from minifinetuning.report import validation_extent
    from minifinetuning.training.reference import prepare_reference as prepare

    metrics = prepare(model, adapter, text, training)
    if training.process_index > 0:
        return
    extent = validation_extent("general", metrics["validation"]["general"])
    before, after = metrics["reference"], metrics["tuned"]
    print(
        f"general perplexity {before['general_perplexity']:.2f} before, "
        f"{after['general_perplexity']:.2f} after step {metrics['step']} (on {extent}), "
        f"which was kept in {training.output_dir}"
    )


def reproduce(options: Any, where: Any) -> None:
    """`mft reproduce`."""
    from minifinetuning.lab.executors import executor_from
    from minifinetuning.lab.paper.estimates import dry_run, listing
    from minifinetuning.lab.paper.reproduction import requested_reproduction
    from minifinetuning.lab.paper.runs import kept_folder
    from minifinetuning.lab.paper.runs import reproduce as run
    from minifinetuning.lab.paper.tables import write_paper_report

    reproduction = requested_reproduction(options)
    if options.list:
        print(listing(reproduction.plan))
    elif options.dry_run:
        print(dry_run(reproduction))
    else:
        executor = executor_from(where)
        with kept_folder(reproduction):
            outcome = run(reproduction, executor, overwrite=options.overwrite_output_dir)
            print(write_paper_report(reproduction, outcome.results))
        outcome.require_complete()


def demo(options: Any) -> None:
    """`mft demo`."""
    from minifinetuning.lab.demo.run import run_demo

    run_demo(
        Path(options.output_dir),
        data=options.data,
        model=options.model,
        prepare=options.prepare,
        steps=options.steps,
    )


_VERBS: dict[str, Callable[..., None]] = {
    "train": train,
    "cache": cache,
    "write": write,
    "compare": compare,
    "evaluate": evaluate,
    "blend": blend,
    "prepare-reference": prepare_reference,
    "reproduce": reproduce,
    "demo": demo,
}


def how_to_go_on(verb: str, options: tuple[Any, ...]) -> str:
    """One line; `options` are the dataclasses of the verb, none where they were not read yet."""
    folder = next((Path(str(o.output_dir)) for o in options if hasattr(o, "output_dir")), None)
    if verb == "cache" and options:
        return "the same command goes on with what is missing of the cache"
    if verb == "write" and options:
        return "the same command goes on with what is missing of the text"
    if verb in ("compare", "reproduce") and options:
        return f"the same command goes on with the cells that are not done in {folder}"
    if verb in ("train", "prepare-reference") and folder is not None:
        return _of_run(folder)
    return "nothing is kept, the same command starts again"


def _of_run(folder: Path) -> str:
    """Where a run of several steps can be gone on with."""
    from minifinetuning.errors import InputError
    from minifinetuning.training.resuming import checkpoint_to_resume

    try:
        checkpoint = checkpoint_to_resume(True, folder, thoroughly=False)
    except InputError:
        if folder.is_dir() and any(folder.iterdir()):
            return "the same command with --overwrite_output_dir starts again"
        return "nothing is kept, the same command starts again"
    where = "starts again" if checkpoint is None else f"goes on from {checkpoint}"
    return f"the same command with --resume_from_checkpoint True {where}"


def _set_up_process() -> None:
    from minifinetuning.environment import print_any_name, quieten_libraries, use_machine_well

    print_any_name()
    use_machine_well()
    quieten_libraries()


def _leave_other_processes() -> None:
    """Under a launcher: all at once, since a process that leaves its group alone may abort."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def _refuse(message: str) -> int:
    _say(message)
    return 2


def _say(message: str) -> None:
    from tqdm import tqdm

    # Below a progress bar that may still be open, not behind it.
    tqdm.write(f"mft: {message}", file=sys.stderr)
