"""Options that would do nothing beside the others: refused, where they were taken in silence."""

from collections.abc import Iterator, Mapping
from typing import Any

from minifinetuning.errors import InputError

__all__ = ["require_used"]

Idle = Iterator[tuple[str, str, str]]
"""An option that does nothing, the option that makes it so, and a clause that says why."""


def require_used(
    verb: str, options: tuple[Any, ...], given: Mapping[str, Any], words: Mapping[str, Any]
) -> None:
    """Raise InputError, naming the option and the reason, for one that changes nothing.

    `given` are all options that somebody set, `words` those among them of the command line. One
    file may serve several commands: what stands in it may idle where the command line says so.
    """
    values = {name: value for kind in options for name, value in vars(kind).items()}
    for name, because_of, reason in _idle(verb, values):
        set_aside = name not in words and because_of in words
        if name in given and given[name] is not None and not set_aside:
            raise InputError(f"--{name} does nothing here: {reason}")


def _idle(verb: str, values: Mapping[str, Any]) -> Idle:
    adapter = values.get("adapter")
    if verb in ("train", "prepare-reference", "cache") and adapter not in ("lora", "dora"):
        what = "without --adapter" if adapter is None else f"of {adapter}, which has no rank"
        yield "rank", "adapter", f"it is that of lora and dora, and this is {what}"
    if verb in ("train", "prepare-reference"):
        yield from _of_objectives(values)
        yield from _of_resuming(values)
    if verb in ("train", "cache") and values["replay"] is None:
        yield "new_data_fraction", "replay", "nothing is replayed, give --replay"
    if verb in ("train", "prepare-reference", "compare") and values["max_steps"] > 0:
        yield (
            "num_train_epochs",
            "max_steps",
            f"--max_steps {values['max_steps']} decides, give --max_steps -1",
        )
    if verb == "compare":
        yield from _of_comparison(values)


def _of_objectives(values: Mapping[str, Any]) -> Idle:
    from minifinetuning.objectives import has_kl_weight, has_tau

    names = [values["objective"], values.get("replay_objective") or values["objective"]]
    named = " and ".join(dict.fromkeys(names))
    if not any(map(has_tau, names)):
        yield "tau", "objective", f"the objective {named} has no tau"
    if not any(map(has_kl_weight, names)):
        yield "kl_weight", "objective", f"the objective {named} has no such weight"


def _of_resuming(values: Mapping[str, Any]) -> Idle:
    from minifinetuning.training.resuming import asked_checkpoint

    if asked_checkpoint(values["resume_from_checkpoint"]) and values["overwrite_output_dir"]:
        yield (
            "overwrite_output_dir",
            "resume_from_checkpoint",
            "--resume_from_checkpoint goes on with what is there, leave one of them out",
        )


def _of_comparison(values: Mapping[str, Any]) -> Idle:
    from minifinetuning.lab.methods import parsed_methods
    from minifinetuning.objectives import has_kl_weight, has_tau

    methods = parsed_methods(values["methods"])
    none = "no method of --methods"
    objectives = [method.objective for method in methods]
    if not any(map(has_tau, objectives)):
        yield "tau", "methods", f"{none} has a tau"
    if not any(map(has_kl_weight, objectives)):
        yield "kl_weight", "methods", f"{none} has such a weight"
    if not any(method.adapter in ("lora", "dora") for method in methods):
        yield "rank", "methods", f"{none} is lora or dora"
    if not any(method.ewc for method in methods):
        yield "ewc_lambda", "methods", f"{none} is ewc"
    if not any(method.replay for method in methods):
        yield "new_data_fraction", "methods", f"{none} replays anything"
    if not any(method.ewc or method.replay == "replay" for method in methods):
        yield "replay", "methods", f"{none} is replay or ewc"
    if values["learning_rates"] is not None:
        yield "learning_rate", "learning_rates", "--learning_rates is in its place"
    if all(method.learning_rate for method in methods):
        for name in ("learning_rate", "learning_rates"):
            yield name, "methods", "every method of --methods has a rate of its own"
