"""Results as files, each known by all that it was made from; one of something else is left."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minifinetuning.errors import InputError
from minifinetuning.files import write_atomically
from minifinetuning.lab.contents import digest_of

__all__ = ["KeptResult", "remove_results", "results_called", "said_of_others"]

_OLDER = ("cell", "settings")
"""Where versions before 0.2 wrote what a result was made from."""

_WORDS = {"measure": "version", "texts": "text", "reference": "model"}

_NAMED = 3
"""How many of the files that are left are named."""


@dataclass(frozen=True)
class KeptResult:
    """The place of one result: `path`, or beside it where a result of something else lies there.

        NAME.json, NAME.1f0c44ab.json

    `identity` is all that the result depends on, by content, as JSON can say it.
    """

    path: Path
    identity: Mapping[str, Any]

    def read(self) -> dict[str, Any] | None:
        """The result, where it is there. Raises InputError where a file of its name is damaged."""
        for path in (self.path, self._own_path):
            record = _record(path)
            if record is not None and not self._differences(record):
                return record
        return None

    def write(self, result: Mapping[str, Any]) -> None:
        """Keep the result, whole or not at all; one of something else is not replaced."""
        there = _record(self.path)
        is_free = there is None or not self._differences(there)
        path = self.path if is_free else self._own_path
        write_atomically(path, {**result, "identity": self._said})

    def others(self) -> dict[Path, list[str]]:
        """The results of this name that were made from something else, and what is other, each."""
        records = {path: _record(path) for path in results_called(self.path)}
        differing = {path: self._differences(record or {}) for path, record in records.items()}
        return {path: names for path, names in differing.items() if names}

    @property
    def _own_path(self) -> Path:
        return self.path.with_name(f"{self.path.stem}.{digest_of(self._said)[:8]}.json")

    @property
    def _said(self) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(json.dumps(self.identity, default=str))
        return said

    def _differences(self, record: Mapping[str, Any]) -> list[str]:
        """Names of what a result was made from, where that is not what this one is made from."""
        said = self._said
        found = next((record[name] for name in ("identity", *_OLDER) if name in record), None)
        if not isinstance(found, dict):
            return ["measure"]
        if found.get("measure") != said.get("measure"):
            # What older figures mean is another thing, and they name what they were made from.
            return ["measure"]
        return [name for name in {**said, **found} if found.get(name) != said.get(name)]


def results_called(path: Path) -> list[Path]:
    """The results whose place is `path`, whatever they were made from."""
    name = re.compile(rf"{re.escape(path.stem)}(\.[0-9a-f]{{8}})?\.json")
    if not path.parent.is_dir():
        return []
    return sorted(other for other in path.parent.iterdir() if name.fullmatch(other.name))


def remove_results(path: Path) -> None:
    """Remove all results whose place is `path`, whatever they were made from, damaged ones too."""
    for result in results_called(path):
        result.unlink()


def said_of_others(results: Iterable[KeptResult]) -> str | None:
    """A sentence on the results of the same names that are of something else, where there are."""
    others = {path: names for result in results for path, names in result.others().items()}
    if not others:
        return None
    words = sorted({_WORDS.get(name, name) for names in others.values() for name in names})
    paths = [str(path) for path in others]
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return (
        f"results of another {' or '.join(words)} are left where they are: "
        f"{', '.join(paths[:_NAMED])}{more}"
    )


def _record(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise InputError(f"{path} is damaged: remove it, and it is computed again")
    return record
