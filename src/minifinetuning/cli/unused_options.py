"""Options that would do nothing beside the others: refused, where they were taken in silence."""

from collections.abc import Iterator, Mapping
from typing import Any

from minifinetuning.errors import InputError
from minifinetuning.models.config import WITH_RANK
from minifinetuning.objectives import has_kl_weight, has_tau

__all__ = ["require_used"]

Idle = Iterator[tuple[str, str, str]]
"""An option that does nothing, the option that makes it so, and a clause that says why."""


def require_used(
    options: tuple[Any, ...], given: Mapping[str, Any], words: Mapping[str, Any]
) -> None:
    """Raise InputError, naming the option and the reason, for one that changes nothing.

    `given` are all options that somebody set, `words` those among them of the command line. One
    file may serve several commands: what stands in it may idle where the command line says so.
    """
    values = {name: value for kind in options for name, value in vars(kind).items()}
    for name, because_of, reason in _idle(values):
        set_aside = name not in words and because_of in words
        if name in given and given[name] is not None and not set_aside:
            raise InputError(f"--{name} does nothing here: {reason}")


def _idle(values: Mapping[str, Any]) -> Idle:
    if "adapter" in values and values["adapter"] not in WITH_RANK:
        adapter = values["adapter"]
        what = "without --adapter" if adapter is None else f"of {adapter}, which has no rank"
        yield "rank", "adapter", f"it is that of lora and dora, and this is {what}"
    compares = "methods" in values
    if "objective" in values and not compares:
        yield from _beside_objective(values)
    if values.get("replay") is None and not compares:
        for name in ("new_data_fraction", "replay_share", "replay_weight"):
            yield name, "replay", "nothing is replayed, give --replay"
    elif values.get("replay_share") is not None and not compares:
        yield "new_data_fraction", "replay_share", "replayed text is added to whole steps"
    if values.get("max_steps", -1) > 0:
        decides = f"--max_steps {values['max_steps']} decides, give --max_steps -1"
        yield "num_train_epochs", "max_steps", decides
    if compares:
        yield from _beside_methods(values)


def _beside_objective(values: Mapping[str, Any]) -> Idle:
    """Of a run of one objective, or of two where replayed text has its own."""
    from minifinetuning.training.resuming import asked_checkpoint

    names = [values["objective"], values["replay_objective"] or values["objective"]]
    named = " and ".join(dict.fromkeys(names))
    if not any(map(has_tau, names)):
        yield "tau", "objective", f"the objective {named} has no tau"
    if not any(map(has_kl_weight, names)):
        yield "kl_weight", "objective", f"the objective {named} has no such weight"
    if asked_checkpoint(values["resume_from_checkpoint"]) and values["overwrite_output_dir"]:
        goes_on = "--resume_from_checkpoint goes on with what is there, leave one of them out"
        yield "overwrite_output_dir", "resume_from_checkpoint", goes_on


def _beside_methods(values: Mapping[str, Any]) -> Idle:
    """Of a comparison."""
    from minifinetuning.lab.methods import parsed_methods

    methods = parsed_methods(values["methods"])
    none = "no method of --methods"
    if not any(has_tau(method.objective) for method in methods):
        yield "tau", "methods", f"{none} has a tau"
    if not any(has_kl_weight(method.objective) for method in methods):
        yield "kl_weight", "methods", f"{none} has such a weight"
    if not any(method.adapter in WITH_RANK for method in methods):
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
