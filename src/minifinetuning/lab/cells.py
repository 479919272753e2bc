"""Cells: results to be made, each known by all that it is made from, and what runs those missing.

A cell has a name, the place of its result, and a task that makes it. Cells are run by an executor
(see `processes` and `executors`): one after another, one a GPU, or on Ray.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minifinetuning.errors import InputError
from minifinetuning.files import claimed, write_atomically
from minifinetuning.lab.digests import digest_of
from minifinetuning.lab.processes import Executor, Task

__all__ = [
    "Cell",
    "KeptResult",
    "make_once",
    "remove_results",
    "run_cells",
    "run_tasks",
    "warn_of_others",
]

logger = logging.getLogger(__name__)

_OLDER = ("cell", "settings")
"""Where versions before 0.2 wrote what a result was made from."""

_WORDS = {"measure": "version", "texts": "text", "reference": "model"}

_NAMED = 3
"""How many of the files that are left are named."""

_SECONDS_BETWEEN_LOOKS = 1.0


@dataclass(frozen=True)
class KeptResult:
    """The place of one result: `path`, or beside it where a result of something else lies there.

        NAME.json, NAME.1f0c44ab.json

    `identify` gives all that the result depends on, by content, as JSON can say it. It is asked
    only where there is something to compare with.
    """

    path: Path
    identify: Callable[[], Mapping[str, Any]]

    def read(self) -> dict[str, Any] | None:
        """The result, where it is there. Raises InputError where a file of its name is damaged."""
        if not self.alike():
            return None
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
        write_atomically(path, {**result, "identity": self._identity})

    def alike(self) -> list[Path]:
        """The files of this name, whatever they were made from."""
        name = re.compile(rf"{re.escape(self.path.stem)}(\.[0-9a-f]{{8}})?\.json")
        if not self.path.parent.is_dir():
            return []
        return sorted(path for path in self.path.parent.iterdir() if name.fullmatch(path.name))

    def others(self) -> dict[Path, list[str]]:
        """Those made from something else, and what is other, each."""
        differing = {path: self._differences(_record(path) or {}) for path in self.alike()}
        return {path: names for path, names in differing.items() if names}

    @property
    def _own_path(self) -> Path:
        return self.path.with_name(f"{self.path.stem}.{digest_of(self._identity)[:8]}.json")

    @property
    def _identity(self) -> dict[str, Any]:
        identity: dict[str, Any] = json.loads(json.dumps(self.identify(), default=str))
        return identity

    def _differences(self, record: Mapping[str, Any]) -> list[str]:
        """Names of what a result was made from, where that is not what this one is made from."""
        own = self._identity
        found = next((record[name] for name in ("identity", *_OLDER) if name in record), None)
        if not isinstance(found, dict) or found.get("measure") != own.get("measure"):
            # What older figures mean is another thing, and they name what they were made from.
            return ["measure"]
        return [name for name in {**own, **found} if found.get(name) != own.get(name)]


@dataclass(frozen=True)
class Cell:
    """A result to be made: its name for a person, its place, and the task that makes it.

    `also_makes` names other cells whose results the task writes on the way.
    """

    name: str
    kept: KeptResult
    task: Task
    also_makes: tuple[str, ...] = ()


def warn_of_others(kept: Iterable[KeptResult]) -> None:
    """Name the results that lie in these places and were made from something else."""
    others = {path: names for place in kept for path, names in place.others().items()}
    if not others:
        return
    words = sorted({_WORDS.get(name, name) for names in others.values() for name in names})
    named = ", ".join(str(path) for path in [*others][:_NAMED])
    more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
    logger.warning(
        "results of another %s are left where they are: %s%s", " or ".join(words), named, more
    )


def remove_results(kept: Iterable[KeptResult]) -> None:
    """Remove all results of these names, whatever they were made from, damaged ones too."""
    for place in kept:
        for path in place.alike():
            path.unlink()


def run_cells(missing: Sequence[Cell], executor: Executor, *, done: int = 0) -> dict[str, str]:
    """Run cells that have no result; returns the names of those that failed, with the reasons.

    `done` is how many others there are that have one. A cell that another one makes on the way is
    run only where that failed.
    """
    if done and missing:
        logger.info("%d of %d cells are done already", done, done + len(missing))
    progress = _Progress(len(missing), done)
    cells = {cell.name: cell for cell in missing}
    on_the_way = {name for cell in missing for name in cell.also_makes if name in cells}

    def ended(name: str) -> None:
        logger.info("%s", _figures(cells[name]))
        for other in cells[name].also_makes:
            if other in cells:
                progress.pass_over(f"{other}, trained on the way\n{_figures(cells[other])}")

    first = {name: cell.task for name, cell in cells.items() if name not in on_the_way}
    failed = run_tasks(first, executor, progress, ended)
    left = [name for name in cells if name in on_the_way and cells[name].kept.read() is None]
    return failed | run_tasks({name: cells[name].task for name in left}, executor, progress, ended)


def run_tasks(
    tasks: Mapping[str, Task],
    executor: Executor,
    progress: "_Progress | None" = None,
    ended: Callable[[str], None] = lambda name: None,
) -> dict[str, str]:
    """Run the tasks; returns why others failed, by name. `ended` is told of those that did not."""
    if not tasks:
        return {}
    progress = progress or _Progress(len(tasks))
    failed = {}
    with closing(executor(tasks, progress.begin)) as outcomes:
        for name, reason in outcomes:
            progress.end()
            if reason is None:
                ended(name)
            else:
                failed[name] = reason
                logger.warning("%s failed: %s", name, reason)
    return failed


class _Progress:
    """How far a run is, for the line at the start of each task."""

    def __init__(self, total: int, done: int = 0) -> None:
        self._total, self._done = total, done
        self._begun = self._ended = 0
        self._start = time.monotonic()

    def begin(self, name: str) -> None:
        self._say(f"{name}{self._remaining()}")

    def end(self) -> None:
        self._ended += 1

    def pass_over(self, name: str) -> None:
        """Count a task that another one has done on the way."""
        self._say(name)
        self.end()

    def _say(self, words: str) -> None:
        self._begun += 1
        logger.info("[%d/%d] %s", self._done + self._begun, self._done + self._total, words)

    def _remaining(self) -> str:
        """How long the rest takes, if it goes on like this; nothing before the first is done."""
        if not self._ended:
            return ""
        seconds = (time.monotonic() - self._start) / self._ended
        minutes = seconds * (self._total - self._ended) / 60
        return f" (about {minutes:.0f} minutes to go)" if minutes >= 1 else ""


def _figures(cell: Cell) -> str:
    result = cell.kept.read()
    assert result is not None, "a cell that did not fail has written its result"
    lost = result["degeneralization"]
    gained = f"  S {result['specialization']:.2f} %"
    return gained if lost is None else f"{gained}, DG {lost:.2f} %"


def make_once(place: Path, is_made: Callable[[], bool], make: Callable[[], None]) -> None:
    """Make what another process may be making too: one claims `place`, and the others wait.

    `make` lays the result where `is_made` finds it, at `place` or elsewhere.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    while not is_made():
        with claimed(place) as mine:
            if mine and not is_made():
                make()
        if not mine:
            time.sleep(_SECONDS_BETWEEN_LOOKS)


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
