"""Digests of what a cell is made from: the same wherever it lies and whatever it is called."""

import hashlib
import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from minifinetuning.data.cache import file_states
from minifinetuning.evaluation.scores import GENERAL, SPECIALIZED
from minifinetuning.files import cache_folder, write_atomically
from minifinetuning.models.config import ModelConfig
from minifinetuning.models.loading import is_adapter, load_model
from minifinetuning.models.weights import weights_identity
from minifinetuning.teacher.fingerprint import text_identity
from minifinetuning.training.texts import Texts

__all__ = [
    "Inputs",
    "digest_of",
    "files_digest",
    "model_digest",
    "model_files_digest",
    "text_digests",
    "validation_digests",
]

_FILES_OF_A_MODEL = re.compile(
    r".*\.(safetensors|bin|gguf|model|py)|.*\.safetensors\.index\.json|(adapter_)?config\.json"
    r"|(tokenizer|vocab).*|merges\.txt|(special_tokens_map|added_tokens)\.json"
)


@dataclass(frozen=True)
class Inputs:
    """What a cell is made from: the digest of the starting model, and of each of its texts."""

    model: str
    texts: dict[str, str]


def text_digests(texts: Texts) -> dict[str, str]:
    """The digest of each text: `train`, `replay` and `fisher`, and what is measured, by its name.

    Of tokens, masks and labels, so that whatever decides on these is in it: the documents, their
    split, the budgets, the tokenizer.
    """
    found = texts.trained() | texts.validation
    return {name: text_identity(of).digest for name, of in found.items()}


def validation_digests(texts: dict[str, str]) -> dict[str, str]:
    """Those of the digests of `text_digests` that are of validation texts."""
    return {name: texts[name] for name in (SPECIALIZED, GENERAL) if name in texts}


def model_digest(model: ModelConfig) -> str:
    """The digest of a model's configuration and weights, as a run loads them.

    A model whose files have not changed is not loaded again for it.
    """

    def computed() -> str:
        return weights_identity(load_model(model))

    place = Path(model.model).expanduser()
    if not place.exists() or is_adapter(model.model):
        # Its weights, or those of its base, lie somewhere else and may change there.
        return computed()
    software = [version(name) for name in ("torch", "transformers")]
    return _remembered(["model", file_states([place]), model.dtype, software], computed)


def files_digest(place: Path) -> str:
    """The digest of a text's file, or of all files in a folder but the hidden ones.

    Of names the endings count: they say how a file is read.
    """
    return _digest_of_files(_visible_files(place), lambda path: path.suffix.lower())


def model_files_digest(place: Path) -> str:
    """The digest of a model's weights, configuration, code and tokenizer as they lie on disk.

    Nothing is loaded. What else its folder holds, a card or figures, does not count.
    """
    files = [path for path in _visible_files(place) if _FILES_OF_A_MODEL.fullmatch(path.name)]
    return _digest_of_files(files, lambda path: path.name)


def digest_of(content: Any) -> str:
    """SHA-256 of what JSON can say, in hexadecimal."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _visible_files(place: Path) -> list[Path]:
    """The file itself, or those in a folder and below it, in order."""
    if place.is_file():
        return [place]
    return sorted(
        path
        for path in place.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(place).parts)
    )


def _digest_of_files(paths: list[Path], name: Callable[[Path], str]) -> str:
    def computed() -> str:
        return digest_of(sorted((name(path), _file_digest(path)) for path in paths))

    return _remembered(["files", file_states([*paths])], computed)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remembered(state: list[Any], compute: Callable[[], str]) -> str:
    """What was computed before for files in the same state, or else is now."""
    path = cache_folder() / "contents" / f"{digest_of(state)[:32]}.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))["content"]
    except (OSError, ValueError, KeyError, TypeError):
        known = None
    if isinstance(known, str):
        return known
    found = compute()
    # A cache that cannot be written costs the same work the next time.
    with suppress(OSError):
        write_atomically(path, {"content": found})
    return found
