"""From words, and a YAML file before them, to the options of a verb; and its help."""

import argparse
import re
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from transformers import HfArgumentParser, TrainingArguments

from minifinetuning.cli.options import IGNORED, RARE, option_types
from minifinetuning.cli.unused_options import require_used
from minifinetuning.cli.values import file_values, set_converter
from minifinetuning.errors import InputError, did_you_mean
from minifinetuning.options import require_ranges
from minifinetuning.training.config import MFTConfig
from minifinetuning.training.writable import require_apart

__all__ = ["parsed", "parser_of"]

_UNSET = object()


def parsed(verb: str, arguments: list[str]) -> tuple[Any, ...]:
    """Instances of the verb's dataclasses, from the options and a YAML file named before them.

    Where both say something the options win. Raises InputError, naming the option or the line of
    the file, for what is not known, cannot be, or means nothing to this verb.
    """
    parser = parser_of(verb)
    given: dict[str, Any] = {}
    file = None
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        file, arguments = Path(arguments[0]), arguments[1:]
        given = file_values(file, parser.actions, parser.may_be_empty)
    words = parser.given(arguments, already=given)
    given |= words
    for name, reason in IGNORED.get(verb, {}).items():
        if name in given:
            raise InputError(f"--{name} means nothing to mft {verb}: {reason}")
    options = tuple(_filled(kind, given) for kind in option_types(verb))
    require_used(options, given, words)
    folder = next((one.output_dir for one in options if hasattr(one, "output_dir")), None)
    if file is not None and folder is not None:
        require_apart(Path(folder), file)
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
        formatter_class=_HelpFormatter,
        epilog=epilog if training else None,
    )
    hidden = {*IGNORED.get(verb, {})}
    if training:
        inherited = TrainingArguments.__dataclass_fields__.keys()
        hidden |= inherited - MFTConfig.__annotations__.keys() | RARE
    for action in parser._actions:
        set_converter(action)
        # HfArgumentParser adds a --no_ twin to every flag that is on by default.
        if action.dest in hidden or "--no_" in str(action.option_strings):
            action.help = argparse.SUPPRESS
    return parser


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
        return f"usage: {self._prog} [FILE.yaml] --option value ...\n\n"

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        name = action.option_strings[0] if action.dest != "help" else "--help"
        return f"{name} {self._format_args(action, '')}".rstrip()

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        return "..." if action.nargs == "+" else ""


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
