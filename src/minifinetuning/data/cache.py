"""Keep corpora on disk, so that a run on unchanged texts does not read and tokenize them again."""

import hashlib
import json
import logging
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from minifinetuning.data.config import TextConfig
from minifinetuning.data.corpus import Corpus, CorpusSummary
from minifinetuning.data.documents import DocumentStream
from minifinetuning.data.packing import Marks, PackedSequences
from minifinetuning.data.sources import FileOrDataset
from minifinetuning.data.splits import HeldOut
from minifinetuning.data.tokenizers import tokenizer_identity
from minifinetuning.files import replacing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

LIMIT = 2 << 30
"""Bytes that a cache folder may hold: the corpora used longest ago make room for new ones."""

FileState = tuple[str, int, int]
"""Absolute path, size in bytes, and time of the last change in nanoseconds."""


def cached_corpus(
    folder: Path,
    stream: DocumentStream,
    tokenizer: "PreTrainedTokenizerBase",
    text: TextConfig,
    settings: Mapping[str, object],
    read: Callable[[], Corpus],
) -> Corpus:
    """The corpus that `folder` keeps, or else what `read` gives, kept there for the next time.

    The name of its file is a digest of all that the corpus comes from: the files' paths, sizes and
    times of change, how they are read (`text`), the tokenizer, what else decides in `settings`, and
    the versions of the software. Of datasets of the hub nothing is kept, since what lies behind a
    name may change unseen, nor of files that have changed while they were read.
    """
    files = file_states(stream.files)
    if files is None:
        return read()
    origin = {
        "sources": stream.sources,
        "text": {field.name: getattr(text, field.name) for field in fields(TextConfig)},
        "files": files,
        "tokenizer": tokenizer_identity(tokenizer),
        "software": _software(),
        **settings,
    }
    path = folder / f"corpus-{_digest(json.dumps(origin, sort_keys=True))}.safetensors"
    corpus = _kept(path)
    if corpus is None:
        corpus = read()
        if file_states(stream.files) == files:
            _keep(corpus, path)
    return corpus


def _kept(path: Path) -> Corpus | None:
    """The corpus kept here; None where there is none, or what lies here is damaged."""
    try:
        kept = _unpacked(path)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
    # The time of the last change is that of the last use. It may be another user's file.
    with suppress(OSError):
        os.utime(path)
    return kept


def _keep(corpus: Corpus, path: Path) -> None:
    """Write the corpus, readable by the user alone, and make room for it in its folder.

    Not where it is above the limit by itself. A folder that cannot be written is a warning.
    """
    content = _packed(corpus)
    if len(content) > LIMIT:
        return
    try:
        with replacing(path) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_bytes(content)
        _shrink(path.parent)
    except OSError as error:
        logger.warning(
            "the tokenized texts could not be kept in %s (%s), so the next run reads the "
            "sources again: make room there, or set MINIFINETUNING_CACHE to another folder",
            path.parent,
            error.strerror,
        )


def file_states(files: Sequence[FileOrDataset]) -> list[FileState] | None:
    """The state of every file, and all within folders; None where one is a dataset of the hub."""
    states = []
    for file in files:
        if isinstance(file, str):
            return None
        for path in sorted(file.rglob("*")) if file.is_dir() else [file]:
            # A link may lead nowhere; reading it will say so.
            with suppress(OSError):
                state = path.stat()
                states.append((os.path.abspath(path), state.st_size, state.st_mtime_ns))
    return states


def _shrink(folder: Path) -> None:
    """Remove the entries used longest ago, until the others are within the limit."""
    found = []
    # With what a writer that was killed has left behind.
    for path in [*folder.glob("corpus-*"), *folder.glob(".corpus-*")]:
        # Another process may have removed it.
        with suppress(FileNotFoundError):
            state = path.stat()
            found.append((state.st_mtime_ns, state.st_size, path))
    held = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if held <= LIMIT:
            break
        path.unlink(missing_ok=True)
        held -= size


def _software() -> dict[str, str]:
    """The versions of what turns files to token ids, and our own code for it, bit for bit."""
    own = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        own.update(path.read_bytes())
    packages = ("markdown-it-py", "resiliparse", "tokenizers", "transformers")
    versions = {name: version(name) for name in packages}
    return {"python": platform.python_version(), "own": own.hexdigest(), **versions}


def _packed(corpus: Corpus) -> bytes:
    """A safetensors file: the streams (N,) of int32, and what describes them as its metadata.

    Beside them where documents start, and the `signatures` of the validation documents.
    """
    sides = {"validation": corpus.validation}
    if corpus.train is not None:
        sides["train"] = corpus.train
    marks = corpus.validation.marks
    record = json.dumps(
        {
            "summary": asdict(corpus.summary),
            "held_out": corpus.held_out.identities,
            "pad_token_id": corpus.validation.pad_token_id,
            "end": marks.end,
            "openings": sorted(marks.openings),
        }
    )
    tensors = {"signatures": corpus.held_out.signatures}
    for name, side in sides.items():
        tensors[name] = side.stream.numpy()
        tensors[f"{name}_starts"] = side.starts.numpy()
    return save(tensors, {"record": record, "digest": _digest(record, tensors)})


def _unpacked(path: Path) -> Corpus:
    """What `_packed` has written; raises one of many errors where it is anything else."""
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata["digest"] != _digest(metadata["record"], tensors):
        raise ValueError("damaged")
    record: dict[str, Any] = json.loads(metadata["record"])
    summary = CorpusSummary(**record["summary"])
    marks = Marks(record["end"], frozenset(record["openings"]))
    sides = {
        name: PackedSequences(
            tensors[name],
            summary.sequence_length,
            record["pad_token_id"],
            starts=tensors[f"{name}_starts"],
            marks=marks,
        )
        for name in ("train", "validation")
        if name in tensors
    }
    held_out = HeldOut(tuple(record["held_out"]), tensors["signatures"])
    return Corpus(sides.get("train"), sides["validation"], summary, held_out)


def _digest(record: str, tensors: Mapping[str, NDArray[Any]] | None = None) -> str:
    content = hashlib.sha256(record.encode())
    for name, tensor in sorted((tensors or {}).items()):
        content.update(name.encode() + tensor.tobytes())
    return content.hexdigest()
