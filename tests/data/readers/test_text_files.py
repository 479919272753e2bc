import gzip

import pytest

from minifinetuning.data import DocumentStream, readers
from minifinetuning.data.sources import CODE_ENDINGS, PAGE_ENDINGS, TABLE_ENDINGS
from minifinetuning.errors import InputError


def texts(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [document.text for document in DocumentStream([str(path)])]


def test_what_has_a_reader_is_taken_as_a_source():
    assert set(readers._TABLES) == set(TABLE_ENDINGS)
    assert set(readers._PAGES) <= set(PAGE_ENDINGS + CODE_ENDINGS)


@pytest.mark.parametrize(
    "ending", ["text", "markdown", "tex", "rst", "adoc", "org", "py", "c", "R", "sql", "rs"]
)
def test_pages_and_source_code_are_text(ending, tmp_path):
    assert texts(tmp_path / f"a.{ending}", "x = 1\n") == ["x = 1\n"]


@pytest.mark.parametrize("ending", ["html", "xhtml"])
def test_html_is_read_as_visible_text(ending, tmp_path):
    assert texts(tmp_path / f"a.{ending}", "<script>x</script><p>Hi</p>") == ["Hi"]


def test_pages_may_be_packed(tmp_path):
    assert texts(tmp_path / "a.txt.gz", gzip.compress(b"packed")) == ["packed"]
    assert texts(tmp_path / "a.csv.gz", gzip.compress(b"id;text\n1;a, b\n")) == ["a, b"]


def test_code_that_a_program_wrote_is_unreadable(tmp_path):
    with pytest.raises(InputError, match=r"a\.js \(code that no person wrote"):
        texts(tmp_path / "a.js", "var a=1;" * 1000)


def test_subtitles_are_what_is_said(tmp_path):
    content = (
        "1\n00:00:01,000 --> 00:00:02,500\n<i>Hello</i> there.\n1984\n\n"
        "2\n00:00:03,000 --> 00:00:04,000 X1:1\n- {\\an8}So.\n"
    )
    assert texts(tmp_path / "a.srt", content) == ["Hello there.\n1984\n- So."]
