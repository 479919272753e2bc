"""From what a person names as a source to the files and datasets that it stands for."""

import glob
import os
import re
from pathlib import Path

from minifinetuning.errors import InputError

PAGE_ENDINGS = (".txt", ".md", ".rst", ".html", ".htm")
TABLE_ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet")
SUPPORTED = ", ".join(PAGE_ENDINGS + TABLE_ENDINGS)

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?(:[^:/\\]+)?", re.ASCII)

Place = Path | str
"""A file or the folder of a saved dataset (Path), or the hub id of a dataset (str)."""


def source_places(source: str) -> list[Place]:
    """The places that a path, a pattern or a hub id stands for, in order.

    Raises InputError where there is nothing of that name, or nothing of a supported kind.
    """
    path = os.path.expanduser(source)
    if os.path.isdir(path):
        return _folder_places(path)
    if os.path.exists(path):
        if not _is_supported(path):
            raise InputError(f"{source} is not of a supported kind: convert to one of {SUPPORTED}")
        return [Path(path)]
    if re.search(r"[*?[]", path):
        matches = sorted(Path(match) for match in glob.glob(path, recursive=True))
        places: list[Place] = [m for m in matches if m.is_file() and _is_supported(m.name)]
        if not places:
            raise InputError(f"{source} matches no file of a supported kind: {SUPPORTED}")
        return places
    if not _HUB_ID.fullmatch(source) or _is_supported(source):
        raise InputError(f"{source!r} does not exist: check the path")
    return [source]


def _folder_places(root: str) -> list[Place]:
    paths: list[Path] = []
    for folder, folders, names in os.walk(root):
        if {"dataset_info.json", "state.json"} <= set(names) or "dataset_dict.json" in names:
            paths.append(Path(folder))
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [
            Path(folder, name) for name in names if _is_supported(name) and not name.startswith(".")
        ]
    if not paths:
        raise InputError(f"the folder {root} holds no file of a supported kind: {SUPPORTED}")
    return [*sorted(paths)]


def _is_supported(name: str) -> bool:
    return name.lower().endswith(PAGE_ENDINGS + TABLE_ENDINGS)
