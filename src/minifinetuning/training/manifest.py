"""Which files of a folder a run of ours wrote: only they are ever removed or replaced."""

import fnmatch
import hashlib
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from minifinetuning.files import read_json, write_atomically
from minifinetuning.training.checkpoints import manifest_of

__all__ = ["MANIFEST", "RESULT", "Manifest", "is_by_a_run", "matching"]

MANIFEST = ".minifinetuning.json"
"""Says which files of its folder a run wrote, and what they hold."""

_AUTHOR = "minifinetuning"

_ABOUT = ("config.json", "generation_config.json", "metrics.json", "README.md", "frontier.png")
_WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
_ADAPTER = (
    "adapter_config.json",
    "adapter_model*.safetensors",
    "adapter_model.safetensors.index.json",
)
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model")
_SPECIAL_TOKENS = ("special_tokens_map.json", "added_tokens.json")
_VOCABULARY = ("vocab.json", "vocab.txt", "merges.txt")
_CHAT = ("chat_template.jinja", "chat_template.json")
RESULT = _ABOUT + _WEIGHTS + _ADAPTER + _TOKENIZER + _SPECIAL_TOKENS + _VOCABULARY + _CHAT
"""What the result of a run is made of, as patterns of names."""


@dataclass(frozen=True)
class Manifest:
    """What runs wrote in a folder.

    `files` are recorded with their content, and are a run's as long as nobody changes them; None
    where an older version did not record it. What fits one of the patterns `reports` is a run's
    whatever it holds. `is_written` says whether this lies in the folder, or was made up for one
    that an older version wrote.
    """

    folder: Path
    files: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    reports: tuple[str, ...] = ()
    is_written: bool = False

    @classmethod
    def of(cls, folder: Path) -> "Manifest":
        """The manifest of a folder; before version 0.2 our metrics.json vouches for the others."""
        content = read_json(folder / MANIFEST)
        with suppress(KeyError, TypeError, ValueError):
            if content["written_by"] == _AUTHOR:
                files, reports = dict(content["files"]), tuple(content["reports"])
                return cls(folder, files, reports, is_written=True)
        if not _is_metrics(folder / "metrics.json"):
            return cls(folder)
        names = set(matching(folder, RESULT))
        if not _is_model_card(folder / "README.md"):
            names.discard("README.md")
        return cls(folder, dict.fromkeys(sorted(names)))

    def write(self) -> None:
        """Write it into its folder."""
        content = {"written_by": _AUTHOR, "files": self.files, "reports": list(self.reports)}
        write_atomically(self.folder / MANIFEST, content)

    def remove_if_unused(self) -> None:
        """Remove it where nothing else is in the folder, since no run came to write anything."""
        if self.is_written and not self.files and matching(self.folder, "*") == [MANIFEST]:
            (self.folder / MANIFEST).unlink()

    def with_files(self, staged: Path) -> "Manifest":
        """This one with the files of `staged`, which are about to be moved here, as all files."""
        return replace(self, files={path.name: _content(path) for path in sorted(staged.iterdir())})

    @property
    def own_files(self) -> list[str]:
        """The recorded files that lie here and that nobody has changed."""
        return [name for name, content in self.files.items() if self._is_unchanged(name, content)]

    def foreign(self, patterns: Iterable[str]) -> list[str]:
        """The names here that fit one of the patterns, and that no run wrote."""
        own = {*self.own_files, *matching(self.folder, self.reports)}
        return [name for name in matching(self.folder, patterns) if name not in own]

    def _is_unchanged(self, name: str, content: dict[str, Any] | None) -> bool:
        path = self.folder / name
        try:
            if path.is_symlink() or not path.is_file():
                return False
            if content is None:
                return True
            state = path.stat()
            # Hashing gigabytes takes a while: a file that was not touched is not read.
            if (state.st_size, state.st_mtime_ns) == (content["size"], content["modified"]):
                return True
            same_size: bool = state.st_size == content["size"]
            return same_size and _digest(path) == content["sha256"]
        except (OSError, KeyError, TypeError):
            return False


def is_by_a_run(checkpoint: Path) -> bool:
    """Whether a training of ours wrote this checkpoint: its folder, or its state, says so."""
    manifest = Manifest.of(checkpoint.parent)
    if manifest.is_written or manifest.files or manifest_of(checkpoint) is not None:
        return True
    state = read_json(checkpoint / "trainer_state.json")
    with suppress(KeyError, TypeError):
        return any("eval_selection_perplexity" in entry for entry in state["log_history"])
    return False


def matching(folder: Path, patterns: Iterable[str]) -> list[str]:
    """The names in `folder` that fit one of the patterns, in order."""
    names = sorted(path.name for path in folder.iterdir())
    return [name for name in names if any(fnmatch.fnmatchcase(name, each) for each in patterns)]


def _content(path: Path) -> dict[str, Any]:
    state = path.stat()
    return {"size": state.st_size, "modified": state.st_mtime_ns, "sha256": _digest(path)}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_metrics(path: Path) -> bool:
    """Whether this is the metrics.json of a run; that of `mft evaluate` lies beside any model."""
    content = read_json(path)
    if not isinstance(content, dict):
        return False
    return {"method", "reference", "tuned"} <= content.keys() and content["method"] != "tuned"


def _is_model_card(path: Path) -> bool:
    """Whether the front matter has our tag."""
    with suppress(OSError, ValueError):
        front = re.match(r"---\n(.*?)\n---\n", path.read_text(encoding="utf-8"), re.DOTALL)
        return front is not None and "- minifinetuning" in front[1].splitlines()
    return False
