"""From words, or a YAML file, to the options of a verb; and its help."""

import argparse
import os
from typing import Any

from minifinetuning.cli.options import option_types

__all__ = ["parsed"]

_COMMON_TRAINING_FIELDS = {
    *("objective", "tau", "kl_weight", "max_degeneralization", "target_specialization", "patience"),
    *("new_data_fraction", "replay_objective", "ewc_lambda", "teacher_cache", "freeze_head"),
    *("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "report_to", "seed"),
    *("max_steps", "num_train_epochs", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "learning_rate", "lr_scheduler_type", "warmup_steps"),
    *("eval_steps", "save_steps", "bf16", "gradient_checkpointing"),
}


_FIXED = {
    "compare": {
        *("objective", "replay_objective", "target_specialization"),
        *("save_steps", "resume_from_checkpoint"),
    },
}
"""What a verb decides by itself."""


def parsed(verb: str, arguments: list[str]) -> tuple[Any, ...]:
    """Instances of the verb's dataclasses, from the options or from one YAML file of them.

    The help is grouped by dataclass and leaves out the rarer fields of TrainingArguments.
    """
    from transformers import HfArgumentParser, TrainingArguments

    from minifinetuning.errors import InputError

    types = option_types(verb)
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
        if action.dest == "tau":
            action.type = _number_or_auto
        # HfArgumentParser adds a --no_ twin to every flag that is on by default.
        if action.dest in rare - _COMMON_TRAINING_FIELDS | _FIXED.get(
            verb, set()
        ) or "--no_" in str(action.option_strings):
            action.help = argparse.SUPPRESS
    if len(arguments) == 1 and arguments[0].endswith((".yaml", ".yml")):
        return _from_yaml(parser, arguments[0])
    known, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise InputError(f"unknown option {unknown[0]}: see mft {verb} --help")
    return tuple(parser.parse_dict(vars(known)))


def _number_or_auto(text: str) -> float | str:
    return text if text == "auto" else float(text)


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
        if isinstance(action.default, list):
            return f"{text} [{' '.join(map(str, action.default))}]"
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
