"""The options of a verb in a YAML file, read as the command line reads its words."""

import argparse
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainingArguments

from minifinetuning.errors import InputError, did_you_mean

__all__ = ["file_values"]

_MAPPINGS = {*TrainingArguments._VALID_DICT_FIELDS, "liger_kernel_config"}
"""Options that take JSON, which a file may write as a mapping of its own."""

_NULLS = ("", "~", "null", "Null", "NULL")


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
