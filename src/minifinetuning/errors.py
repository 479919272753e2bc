"""The errors that a person can mend: each is one sentence that names the input and the remedy."""

import difflib
from collections.abc import Collection

__all__ = ["InputError", "TrainingDivergedError", "did_you_mean"]


class InputError(ValueError):
    """An input cannot be used: the message names the file, line or option, and the remedy."""


class TrainingDivergedError(RuntimeError):
    """The loss is no longer finite: the message names the step and the last good checkpoint."""


def did_you_mean(name: str, known: Collection[str], otherwise: str | None = None) -> str:
    """The end of a sentence about an unknown name: the known one that looks most like it.

    One that begins with it comes first; where none is like it, `otherwise`, or all that are known.
    """
    same = [one for one in known if one.lower() == name.lower()]
    longer = [one for one in known if len(name) > 2 and one.startswith(name)]
    close = same or longer or difflib.get_close_matches(name, known, n=1, cutoff=0.65)
    return f": did you mean {close[0]}?" if close else f": {otherwise or _one_of(known)}"


def _one_of(known: Collection[str]) -> str:
    return f"choose one of {', '.join(known)}"
