"""How the help of a verb looks."""

import argparse
from typing import Any

__all__ = ["HelpFormatter"]


class HelpFormatter(argparse.HelpFormatter):
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
