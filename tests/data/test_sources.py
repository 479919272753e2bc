"""What a folder stands for: all of it, or what is said not to be read."""

import gzip
import json
import os
import tracemalloc

import pytest

from minifinetuning.data import DocumentStream
from minifinetuning.data.readers import tables, text_files
from minifinetuning.data.sources import ending
from minifinetuning.errors import InputError
from minifinetuning.files import printable


def stream(*sources, skip=False):
    found = DocumentStream([str(source) for source in sources], skip_unreadable=skip)
    return [document.text for document in found], found


def test_what_a_folder_holds_and_is_not_read_is_counted_by_ending(tmp_path):
    for name in ("a.pdf", "b.PDF", "c.docx", "~$c.docx", "data.tar.gz", "Makefile", "x.json.xz"):
        (tmp_path / name).write_bytes(b"\0")
    (tmp_path / ".hidden.pdf").write_bytes(b"\0")
    (tmp_path / "a.txt").write_text("read")
    texts, found = stream(tmp_path)
    assert texts == ["read"]
    left_out = {".pdf": 2, ".docx": 1, "lock files": 1, ".tar.gz": 1, "without ending": 1}
    assert found.left_out == left_out | {".json.xz": 1}
    texts, found = stream(tmp_path / "*")
    assert found.left_out == left_out | {".json.xz": 1}


def test_a_folder_of_other_kinds_alone_says_what_is_there(tmp_path):
    for name in ("a.pdf", "b.pdf", "c.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"no file of a supported kind.*there is 2 \.pdf, 1 \.png"):
        stream(tmp_path)


def test_one_foreign_file_leaves_the_others_to_be_read(tmp_path):
    (tmp_path / "a.txt").write_text("read")
    (tmp_path / "package.json").write_text('{"name": "x", "version": "1.0"}')
    rows = ['{"text": "not read, since its end is broken"}'] * 3 + ["{"]
    (tmp_path / "b.jsonl").write_text("\n".join(rows))
    (tmp_path / "c.csv").write_bytes(b"\0")
    texts, found = stream(tmp_path, skip=True)
    assert texts == ["read"]
    assert found.left_out == {".json": 1, ".jsonl": 1, ".csv": 1}
    assert found.skipped == [str(tmp_path / name) for name in ("b.jsonl", "c.csv", "package.json")]
    with pytest.raises(InputError, match=r"b\.jsonl, line 4: .* --skip_unreadable"):
        stream(tmp_path)


def test_where_all_is_unreadable_the_reasons_are_said(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\0")
    with pytest.raises(InputError, match=r"no documents with text.*a\.txt \(binary\)"):
        stream(tmp_path, skip=True)


def test_linked_folders_are_read_once_and_loops_end(tmp_path):
    outside = tmp_path / "outside"
    source = tmp_path / "source"
    (source / "b").mkdir(parents=True)
    outside.mkdir()
    (outside / "linked.txt").write_text("linked")
    (source / "b" / "own.txt").write_text("own")
    (source / "a").symlink_to(outside)
    (source / "c").symlink_to(outside)
    (source / "b" / "loop").symlink_to(source)
    (source / "self").symlink_to(source / "self")
    texts, found = stream(source)
    assert texts == ["linked", "own"]
    assert found.repeated == 0
    assert found.files == [source / "a" / "linked.txt", source / "b" / "own.txt"]


def test_a_folder_that_may_not_be_opened_is_no_silent_gap(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("read")
    walk = os.walk

    def refusing(root, onerror, **options):
        onerror(PermissionError(13, "no", str(tmp_path / "closed")))
        yield from walk(root, onerror=onerror, **options)

    monkeypatch.setattr(os, "walk", refusing)
    with pytest.raises(InputError, match=r"closed \(a folder that may not be opened\)"):
        stream(tmp_path)
    texts, found = stream(tmp_path, skip=True)
    assert (texts, found.skipped) == (["read"], [str(tmp_path / "closed")])


def test_pipes_and_devices_are_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    for name in ("pipe.txt", "zero.txt"):
        with pytest.raises(InputError, match=rf"{name} is a pipe or a device, not a file"):
            stream(tmp_path / name)
    (tmp_path / "a.txt").write_text("read")
    texts, found = stream(tmp_path)
    assert (texts, found.left_out) == (["read"], {"pipes and devices": 2})


def test_a_line_above_the_bound_is_unreadable_and_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "LONGEST_LINE", 1 << 16)
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wb", 1) as file:
        for _ in range(100):
            file.write(b" " * (1 << 18))
    tracemalloc.start()
    with pytest.raises(InputError, match=r"a\.jsonl\.gz \(line 1 is above .* characters"):
        stream(path)
    assert tracemalloc.get_traced_memory()[1] < 2 << 20
    tracemalloc.stop()


def test_quotes_that_never_close_are_not_read_to_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "LONGEST_LINE", 1 << 10)
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1,"' + "a line\n" * 200)
    with pytest.raises(InputError, match=r"a\.csv, line \d+: malformed CSV \(field larger"):
        stream(path)


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.json", "a.eml"])
def test_a_page_above_the_bound_is_unreadable(name, tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "LONGEST_PAGE", 1 << 20)
    content = b'"' + b"a" * (1 << 20) + b'"'
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(InputError, match=r"above 1 MiB: split it, or write it as JSON lines"):
        stream(tmp_path / name)


def test_names_that_are_no_utf_8_do_no_harm(tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    with open(folder + b"/\xfc.csv", "w") as file:
        file.write("id;text\n1;read\n")
    with open(folder + b"/bad\xff.txt", "wb") as file:
        file.write(b"\0")
    name = os.fsdecode(folder)
    found = DocumentStream([name], skip_unreadable=True)
    documents = list(found)
    assert [document.text for document in documents] == ["read"]
    for said in (documents[0].source, *found.notes, *found.skipped, printable(name)):
        said.encode()
    with pytest.raises(InputError) as raised:
        list(DocumentStream([name]))
    str(raised.value).encode()
    with pytest.raises(InputError) as raised:
        list(DocumentStream([name + "-missing"]))
    str(raised.value).encode()
    json.dumps(found.left_out)


def test_endings():
    names = ["a.PDF", "a.tar.gz", "a.b c", "Makefile", "x.1", "v1.2.docx", "a.txt.gz"]
    assert [ending(name) for name in names] == [
        ".pdf", ".tar.gz", "without ending", "without ending", ".1", ".docx", ".txt.gz",
    ]  # fmt: skip
