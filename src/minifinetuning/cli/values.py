"""What the value of an option means, and must look like: as a word, and in a YAML file."""

import argparse
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainingArguments
from transformers.hf_argparser import string_to_bool

from minifinetuning.errors import InputError, did_you_mean

__all__ = ["file_values", "set_converter"]

_ONE_OR_SEVERAL = ("report_to", "optim_target_modules")
"""Fields that are a word or a list of words."""

_MAPPINGS = {*TrainingArguments._VALID_DICT_FIELDS, "liger_kernel_config"}
"""Options that take JSON, which a file may write as a mapping of its own."""

_NULLS = ("", "~", "null", "Null", "NULL")


def set_converter(action: argparse.Action) -> None:
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


def file_values(
    path: Path, actions: Mapping[str, argparse.Action], may_be_empty: Collection[str]
) -> dict[str, Any]:
    """What the file sets, by the name of the option, converted by the option's own converter.

    A value where a list is meant is a list of one; a name without a value is None where the option
    is among those that `may_be_empty`. Raises InputError, naming file and line, for anything else.
    """
    found: dict[str, Any] = {}
    try:
        entries = _entries(path)
        for key, value in entries:
            name = str(key.value).replace("-", "_")
            where = f"{path}, line {key.start_mark.line + 1}"
            if name not in actions:
                hint = did_you_mean(name, actions, "see the verb's --help")
                raise InputError(f"{where}: unknown option {name}{hint}")
            if name in found:
                raise InputError(f"{where}: {name} is set twice, leave one out")
            if _is_null(value) and name in may_be_empty:
                found[name] = None
            else:
                found[name] = _converted(name, value, actions[name], where)
    except RecursionError:
        raise InputError(f"{path} is nested too deeply: write one option a line") from None
    return found


def _entries(path: Path) -> list[tuple[yaml.Node, yaml.Node]]:
    if not path.is_file():
        raise InputError(f"{path} does not exist: name a YAML file of options")
    try:
        # Every scalar stays the text that was typed: what it means is for the option to say.
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if node is None:
        return []
    if not isinstance(node, yaml.MappingNode):
        raise InputError(f"{path} holds no options: write one a line, such as model: FOLDER")
    return list(node.value)


def _converted(name: str, node: yaml.Node, action: argparse.Action, where: str) -> Any:
    convert: Callable[[str], Any] = action.type if callable(action.type) else str
    nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
    several = action.nargs == "+"
    if isinstance(node, yaml.SequenceNode) and not (several and nodes):
        number = "at least one value" if several else "one value, not a list"
        raise InputError(f"{where}: --{name} takes {number}")
    if name not in _MAPPINGS and any(isinstance(entry, yaml.MappingNode) for entry in nodes):
        raise InputError(f"{where}: --{name} takes {'values' if several else 'a value'}, not names")
    try:
        values = [convert(_text(entry)) for entry in nodes]
    except (argparse.ArgumentTypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from error
    return values if several else values[0]


def _text(node: yaml.Node) -> str:
    """As it would stand on the command line: a mapping is JSON there."""
    if isinstance(node, yaml.ScalarNode):
        return str(node.value)
    return json.dumps(_plain(node))


def _plain(node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return {str(key.value): _plain(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_plain(value) for value in node.value]
    if _is_null(node):
        return None
    if node.style is not None:
        return node.value
    for convert in (int, float):
        try:
            return convert(node.value)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(node.value.lower(), node.value)


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.style is None and node.value in _NULLS
