"""Find the files and datasets that a person names: paths, folders, patterns, ids of the hub."""

import glob
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from minifinetuning.errors import InputError
from minifinetuning.files import printable

_PAGES = ".txt .text .md .markdown .rst .tex .adoc .org .html .htm .xhtml .srt .ipynb .eml"
_CODE = (
    ".py .js .mjs .ts .tsx .jsx .java .kt .scala .c .h .cc .cpp .hpp .cs .go .rs .swift .rb .php "
    ".pl .lua .r .jl .hs .ml .ex .erl .clj .f90 .sql .sh .ps1"
)
PAGE_ENDINGS = tuple(_PAGES.split())
CODE_ENDINGS = tuple(_CODE.split())
TABLE_ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".mbox", ".parquet")
SUPPORTED = (
    f"{', '.join(PAGE_ENDINGS + TABLE_ENDINGS)}, source code, and .gz of all but .mbox and .parquet"
)

_NOT_PACKED = (".mbox", ".parquet")
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?(:[^:/\\]+)?", re.ASCII)

FileOrDataset = Path | str
"""A file or the folder of a saved dataset (Path), or the hub id of a dataset (str)."""


class Sources:
    """What paths, patterns and hub ids stand for: the `files` to read, in order, and the others.

    `unread` counts files that are found but not read, by their ending, or by what they are.
    `closed` names folders that may not be looked into.

    Raises InputError where there is nothing of a name, or nothing of a supported kind.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.files: list[FileOrDataset] = []
        self.unread: Counter[str] = Counter()
        self.closed: list[str] = []
        for name in names:
            self._add(name)

    def _add(self, source: str) -> None:
        path = os.path.expanduser(source)
        if os.path.isdir(path):
            self._require(self._add_folder(path), f"the folder {printable(source)} holds")
        elif os.path.exists(path):
            self.files.append(_named_file(source, Path(path)))
        elif re.search(r"[*?[]", path):
            matches = map(Path, sorted(glob.glob(path, recursive=True)))
            files = [match for match in matches if not match.is_dir()]
            self._require(self._add_files(files), f"{printable(source)} matches")
        elif not _HUB_ID.fullmatch(source) or supported_ending(source) is not None:
            raise InputError(f"{printable(source)!r} does not exist: check the path")
        else:
            self.files.append(source)

    def _require(self, count: int, subject: str) -> None:
        if not count and not self.closed:
            there = f"; there is {listed(self.unread)}" if self.unread else ""
            raise InputError(f"{subject} no file of a supported kind: {SUPPORTED}{there}")

    def _add_folder(self, root: str) -> int:
        files: list[Path] = []
        for folder, names in _folders(root, self.closed):
            if _is_dataset(names):
                files.append(folder)
            else:
                files += [folder / name for name in names if not name.startswith(".")]
        return self._add_files(sorted(files))

    def _add_files(self, files: list[Path]) -> int:
        """Those that can be read, and how many; the others are counted by their ending."""
        before = len(self.files)
        for path in files:
            if path.name.startswith("~$"):
                self.unread["lock files"] += 1
            elif not path.is_dir() and supported_ending(path.name) is None:
                self.unread[ending(path.name)] += 1
            elif not path.is_dir() and not _may_be_read(path):
                self.unread["pipes and devices"] += 1
            else:
                self.files.append(path)
        return len(self.files) - before


def supported_ending(name: str) -> str | None:
    """The supported ending that the file's name has, `.gz` left out; None where it has none."""
    lowered = name.lower()
    plain = lowered.removesuffix(".gz")
    for known in (*PAGE_ENDINGS, *CODE_ENDINGS, *TABLE_ENDINGS):
        if plain.endswith(known) and (plain == lowered or known not in _NOT_PACKED):
            return known
    return None


def has_columns(file: FileOrDataset) -> bool:
    """Whether it is a table or a dataset, of which one column or list is the text."""
    if isinstance(file, str) or file.is_dir():
        return True
    return supported_ending(file.name) in TABLE_ENDINGS and file.suffix.lower() != ".mbox"


def ending(name: str) -> str:
    """By what a person sorts files: `.pdf`, `.tar.gz`, or that there is no ending."""
    found = re.search(r"(\.\w{1,8})?\.\w{1,10}$", name, re.ASCII)
    if found is None:
        return "without ending"
    packed = found[0].lower().endswith((".gz", ".xz", ".bz2", ".zst"))
    return found[0].lower() if packed else os.path.splitext(name)[1].lower()


def listed(counts: Counter[str] | dict[str, int]) -> str:
    """Counts by name as a person reads them: "12 .pdf, 3 .docx", the most first."""
    return ", ".join(f"{count:,} {name}" for name, count in Counter(counts).most_common())


def _named_file(source: str, path: Path) -> Path:
    if supported_ending(path.name) is None:
        raise InputError(
            f"{printable(source)} is not of a supported kind: convert to one of {SUPPORTED}"
        )
    if not _may_be_read(path):
        raise InputError(
            f"{printable(source)} is a pipe or a device, not a file: "
            "write what it gives to a file first"
        )
    return path


def _may_be_read(path: Path) -> bool:
    """Whether there is an end to the file; one that is not there is reported when it is read."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


def _is_dataset(names: list[str]) -> bool:
    return {"dataset_info.json", "state.json"} <= set(names) or "dataset_dict.json" in names


def _folders(root: str, closed: list[str]) -> Iterator[tuple[Path, list[str]]]:
    """Each folder below and its files' names; links are followed, no folder is entered twice."""
    entered: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(
        root, followlinks=True, onerror=lambda error: closed.append(str(error.filename))
    ):
        state = os.stat(folder)
        if (state.st_dev, state.st_ino) in entered:
            folders.clear()
            continue
        entered.add((state.st_dev, state.st_ino))
        is_leaf = _is_dataset(names)
        folders[:] = [] if is_leaf else sorted(n for n in folders if not n.startswith("."))
        yield Path(folder), names
