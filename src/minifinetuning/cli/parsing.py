"""From words, and a YAML file before them, to the options of a verb; and its help."""

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool

from minifinetuning.cli.help import HelpFormatter
from minifinetuning.cli.idle import require_used
from minifinetuning.cli.options import IGNORED, option_types
from minifinetuning.cli.yaml_file import file_values
from minifinetuning.errors import InputError, did_you_mean
from minifinetuning.options import require_ranges

__all__ = ["parsed", "parser_of"]

_COMMON_TRAINING_FIELDS = {
    *("objective", "tau", "kl_weight", "max_degeneralization", "target_specialization", "patience"),
    *("new_data_fraction", "replay_objective", "ewc_lambda", "teacher_cache", "freeze_head"),
    *("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "report_to", "seed"),
    *("max_steps", "num_train_epochs", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "learning_rate", "lr_scheduler_type", "warmup_steps"),
    *("eval_steps", "save_steps", "bf16", "gradient_checkpointing"),
}

_ONE_OR_SEVERAL = ("report_to", "optim_target_modules")
"""Fields that are a word or a list of words."""

_UNSET = object()


def parsed(verb: str, arguments: list[str]) -> tuple[Any, ...]:
    """Instances of the verb's dataclasses, from the options and a YAML file named before them.

    Where both say something the options win. Raises InputError, naming the option or the line of
    the file, for what is not known, cannot be, or means nothing to this verb.
    """
    parser = parser_of(verb)
    given: dict[str, Any] = {}
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        given = file_values(Path(arguments[0]), parser.actions, parser.may_be_empty)
        arguments = arguments[1:]
    words = parser.given(arguments, already=given)
    given |= words
    for name, reason in IGNORED.get(verb, {}).items():
        if name in given:
            raise InputError(f"--{name} means nothing to mft {verb}: {reason}")
    options = tuple(_filled(kind, given) for kind in option_types(verb))
    require_used(verb, options, given, words)
    return options


def parser_of(verb: str) -> "_Parser":
    """The parser of a verb, its help grouped by dataclass and without the rarer fields."""
    types = option_types(verb)
    training = [kind for kind in types if issubclass(kind, TrainingArguments)]
    epilog = "Every other field of transformers.TrainingArguments is an option too."
    parser = _Parser(
        types,
        prog=f"mft {verb}",
        allow_abbrev=False,
        formatter_class=HelpFormatter,
        epilog=epilog if training else None,
    )
    rare = {name for kind in training for name in kind.__dataclass_fields__}
    hidden = rare - _COMMON_TRAINING_FIELDS | IGNORED.get(verb, {}).keys()
    for action in parser._actions:
        _set_converter(action)
        # HfArgumentParser adds a --no_ twin to every flag that is on by default.
        if action.dest in hidden or "--no_" in str(action.option_strings):
            action.help = argparse.SUPPRESS
    return parser


class _Parser(HfArgumentParser):  # type: ignore[misc]
    """HfArgumentParser that says what is wrong in one sentence, and what was given at all."""

    @property
    def actions(self) -> dict[str, argparse.Action]:
        """The option of each field."""
        found: dict[str, argparse.Action] = {}
        for action in self._actions:
            if action.dest != "help":
                found.setdefault(action.dest, action)
        return found

    @property
    def may_be_empty(self) -> set[str]:
        """The fields that may be None."""
        return {
            name
            for kind in self.dataclass_types
            for name, hint in get_type_hints(kind).items()
            if NoneType in get_args(hint)
        }

    def given(self, words: list[str], already: dict[str, Any]) -> dict[str, Any]:
        """The fields that the words set; those that are set `already` are not asked for."""
        for action in self._actions:
            action.required = action.required and action.dest not in already
        unset = argparse.Namespace(**dict.fromkeys(self.actions, _UNSET))
        self._words = words
        known, unknown = self.parse_known_args(words, unset)
        if unknown:
            raise InputError(self._about_unknown(unknown[0]))
        return {name: value for name, value in vars(known).items() if value is not _UNSET}

    def _about_unknown(self, word: str) -> str:
        if word.startswith("-"):
            name = word.lstrip("-").partition("=")[0].replace("-", "_")
            hint = did_you_mean(f"--{name}", [f"--{known}" for known in self.actions], self._help)
            return f"unknown option {word.partition('=')[0]}{hint}"
        if word.endswith((".yaml", ".yml")):
            return f"{word} must come first: {self.prog} {word} --option value"
        return f"{word!r} belongs to no option: {self._help}"

    @property
    def _help(self) -> str:
        return f"see {self.prog} --help"

    def error(self, message: str) -> Any:
        """Argparse's message as a sentence of ours."""
        missing = re.fullmatch(r"the following arguments are required: (.*)", message)
        if missing:
            names = [name.partition("/")[0] for name in missing[1].split(", ")]
            verb = "is" if len(names) == 1 else "are"
            raise InputError(f"{' and '.join(names)} {verb} missing: {self._help}")
        about = re.fullmatch(r"argument (--\w+)\S*: (.*)", message, re.DOTALL)
        if about is None:
            raise InputError(f"{message}: {self._help}")
        option, text = about.groups()
        if text.startswith("expected"):
            raise InputError(f"{option} needs a value{self._instead_of(option)}: {self._help}")
        raise InputError(text if text.startswith("--") else f"{option}: {text}")

    def _instead_of(self, option: str) -> str:
        """What stands where the value of an option should, if it looks like an option itself."""
        behind = self._words[self._words.index(option) + 1 :] if option in self._words else []
        return f", and {behind[0]} is none" if behind and not behind[0].startswith("--") else ""


def _filled(kind: Any, given: dict[str, Any]) -> Any:
    """The dataclass from what was given of it; its own defaults are for the rest."""
    own = {field.name for field in fields(kind) if field.init}
    options = kind(**{name: value for name, value in given.items() if name in own})
    require_ranges(options)
    return options


def _set_converter(action: argparse.Action) -> None:
    """Say what a value must look like, in words, wherever it comes from."""
    name = action.dest
    if name == "help" or action.nargs == 0:
        return
    if name in _ONE_OR_SEVERAL:
        action.nargs = "+"
    if action.type is string_to_bool:
        # `--bf16` alone, as for every flag, also where nothing said is not the same as no.
        action.nargs, action.const = "?", True
    convert, what = _converter(name, action.type)
    choices = None if action.choices is None else [str(choice) for choice in action.choices]
    action.choices = None

    def converted(text: str) -> Any:
        if choices is not None and text not in choices:
            hint = did_you_mean(text, choices)
            raise argparse.ArgumentTypeError(f"--{name} {text} is not known{hint}")
        if convert is str and not text.strip():
            raise argparse.ArgumentTypeError(f"--{name} is empty: give a value, or leave it out")
        try:
            return convert(text)
        except (ValueError, TypeError, RecursionError, argparse.ArgumentTypeError):
            shown = text if len(text) < 80 else f"{text[:80]}…"
            raise argparse.ArgumentTypeError(f"--{name} takes {what}, got {shown!r}") from None

    action.type = converted


def _converter(name: str, kind: Any) -> tuple[Callable[[str], Any], str]:
    """What makes a value of a text, and the words for what it takes."""
    if name == "tau":
        return _number_or_auto, "a number or auto"
    if name == "include_num_input_tokens_seen":
        return _counted_tokens, "no, all or non_padding"
    if name in TrainingArguments._VALID_DICT_FIELDS:
        return _checked_json, 'JSON such as {"key": 1}, or a file of it'
    if name == "liger_kernel_config":
        return json.loads, 'JSON such as {"rope": true}'
    if name == "parallelism_config":
        return _refused, "an object of Python, and is left out here"
    words = {int: "a whole number", float: "a number", string_to_bool: "true or false"}
    return kind or str, words.get(kind, "a value that it knows")


def _number_or_auto(text: str) -> float | str:
    return text if text == "auto" else float(text)


def _counted_tokens(text: str) -> str | bool:
    return text if text in ("no", "all", "non_padding") else bool(string_to_bool(text))


def _checked_json(text: str) -> str:
    """TrainingArguments reads it itself, or the file of this name."""
    if text.startswith("{"):
        json.loads(text, parse_constant=_refused)
    elif not Path(text).expanduser().is_file():
        raise ValueError(text)
    return text


def _refused(text: str) -> Any:
    raise ValueError(text)
