import csv
import gzip
import json
import random
import tracemalloc

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from minifinetuning.data import DocumentStream
from minifinetuning.data.documents import SeenTexts
from minifinetuning.errors import InputError


def texts(*sources, **options):
    documents = DocumentStream([str(source) for source in sources], **options)
    return [document.text for document in documents]


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture
def no_hub(monkeypatch):
    def fail(*arguments, **options):
        pytest.fail("the hub was asked")

    monkeypatch.setattr(datasets, "load_dataset", fail)


def test_a_folder_is_read_recursively_in_order_without_hidden_and_unknown_files(tmp_path):
    written(tmp_path / "b.md", "second")
    written(tmp_path / "a" / "z.TXT", "first")
    written(tmp_path / "c.rst", "third")
    written(tmp_path / ".hidden.txt", "no")
    written(tmp_path / ".git" / "x.txt", "no")
    written(tmp_path / "image.png", b"\x89\0")
    assert texts(tmp_path) == ["first", "second", "third"]


def test_a_document_names_its_file_and_a_row_its_number(tmp_path):
    page = written(tmp_path / "a.txt", "one")
    table = written(tmp_path / "b.jsonl", '"two"\n\n{"text": "three"}\n')
    items = [*DocumentStream([str(page), str(table)])]
    assert [item.source for item in items] == [str(page), f"{table}:1", f"{table}:2"]


def test_html_is_read_as_visible_text(tmp_path):
    assert texts(written(tmp_path / "a.html", "<script>x</script><p>Hi</p>")) == ["Hi"]


def test_patterns(tmp_path, no_hub):
    written(tmp_path / "b.txt", "b")
    written(tmp_path / "x" / "a.txt", "a")
    written(tmp_path / "x" / "a.log", "no")
    assert texts(tmp_path / "*.txt") == ["b"]
    assert texts(tmp_path / "**" / "*") == ["b", "a"]
    with pytest.raises(InputError, match=r"\*\.md matches no file"):
        texts(tmp_path / "*.md")


def test_a_path_with_brackets_is_no_pattern(tmp_path):
    assert texts(written(tmp_path / "a[1].txt", "found")) == ["found"]


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    written(tmp_path / "a.txt", "home")
    assert texts("~/a.txt") == ["home"]


ROWS = [{"id": 1, "text": "one"}, {"id": 2, "text": "two, with\na line"}, {"id": 3, "text": None}]


def test_json_lines_plain_and_compressed(tmp_path):
    lines = "\n".join(json.dumps(row) for row in ROWS).encode()
    plain = written(tmp_path / "a.jsonl", lines)
    packed = written(tmp_path / "a.jsonl.gz", gzip.compress(lines))
    assert texts(plain) == texts(packed) == ["one", "two, with\na line"]


def test_json_lists_strings_and_one_object(tmp_path):
    assert texts(written(tmp_path / "a.json", json.dumps(ROWS))) == ["one", "two, with\na line"]
    assert texts(written(tmp_path / "b.json", '["x", "y"]')) == ["x", "y"]
    assert texts(written(tmp_path / "c.json", '{"body": "z", "n": 1}')) == ["z"]


def test_csv_cells_may_be_long_and_hold_line_breaks(tmp_path):
    path = tmp_path / "a.csv"
    limit = csv.field_size_limit()
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["id", "text"], [1, "a, b\nc"], [2, "x" * 200_000]])
    assert texts(path) == ["a, b\nc", "x" * 200_000]
    assert csv.field_size_limit() == limit


def test_csv_with_an_unquoted_comma_names_the_line(tmp_path):
    path = written(tmp_path / "a.csv", "id,text\n1,fine\n2,not, fine\n")
    with pytest.raises(InputError, match=r"a\.csv, line 3: malformed CSV"):
        texts(path)


def test_parquet(tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet") == ["one", "two, with\na line"]


def test_half_a_surrogate_pair_becomes_the_replacement_character(tmp_path):
    path = written(tmp_path / "a.jsonl", '{"text": "x\\ud83d"}\n{"text": "\\ud83d\\ude00"}')
    assert texts(path) == ["x\ufffd", "\U0001f600"]


def test_a_saved_dataset(tmp_path):
    datasets.Dataset.from_list(ROWS).select([1, 0]).save_to_disk(tmp_path / "saved")
    assert texts(tmp_path / "saved") == ["two, with\na line", "one"]


def test_a_saved_dataset_within_a_folder_is_one_source(tmp_path):
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "all" / "saved")
    written(tmp_path / "all" / "a.txt", "beside")
    assert texts(tmp_path / "all") == ["beside", "one", "two, with\na line"]


def test_a_saved_dataset_with_splits_gives_train_else_all(tmp_path):
    part = {name: datasets.Dataset.from_dict({"text": [name]}) for name in ("train", "a", "b")}
    datasets.DatasetDict(part).save_to_disk(tmp_path / "with")
    datasets.DatasetDict({"a": part["a"], "b": part["b"]}).save_to_disk(tmp_path / "without")
    assert texts(tmp_path / "with") == ["train"]
    assert texts(tmp_path / "without") == ["a", "b"]


def test_a_hub_id_is_loaded_with_its_configuration(monkeypatch):
    asked = []

    def load(name, config, split):
        asked.append((name, config, split))
        return datasets.Dataset.from_dict({"text": ["hello"]})

    monkeypatch.setattr(datasets, "load_dataset", load)
    items = [*DocumentStream(["some-owner/a.name:v1"])]
    assert asked == [("some-owner/a.name", "v1", "train")]
    assert (items[0].text, items[0].source) == ("hello", "some-owner/a.name:v1:1")


def test_a_hub_failure_is_one_short_sentence(monkeypatch):
    def fail(*arguments, **options):
        raise ConnectionError("no network\nand a long story")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError) as raised:
        list(DocumentStream(["owner/name"]))
    message = str(raised.value)
    assert "'owner/name' is neither a path nor a dataset" in message
    assert "no network" in message
    assert "long story" not in message


@pytest.mark.parametrize(
    "source", ["/no/such", "./a", "~/no such", "notes.txt", "a/b/c", "owner/name.jsonl", "a/", ""]
)
def test_a_missing_path_fails_without_asking_the_hub(source, no_hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        list(DocumentStream([source]))


def test_files_and_folders_of_no_known_kind_list_the_endings(tmp_path):
    path = written(tmp_path / "a.docx", "x")
    with pytest.raises(InputError, match=r"a\.docx is not of a supported kind.*\.parquet"):
        texts(path)
    with pytest.raises(InputError, match=r"holds no file of a supported kind: \.txt.*\.parquet"):
        texts(tmp_path)


def test_one_string_in_place_of_a_list_is_refused():
    with pytest.raises(InputError, match="list of strings"):
        list(DocumentStream("/tmp"))


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_the_text_column_is_chosen_or_asked_for(kind, tmp_path):
    path = tmp_path / f"a.{kind}"

    def table(**row):
        if kind == "jsonl":
            path.write_text(json.dumps(row))
        elif kind == "csv":
            path.write_text(f"{','.join(row)}\n{','.join(row.values())}\n")
        else:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)

    table(body="only")
    assert texts(path) == ["only"]
    table(title="t", text="x")
    assert texts(path) == ["x"]
    assert texts(path, text_field="title") == ["t"]
    with pytest.raises(InputError, match=r"no column 'body'.*--text_field.*title, text"):
        texts(path, text_field="body")
    table(title="t", body="b")
    with pytest.raises(InputError, match=r"several columns.*--text_field.*title, body"):
        texts(path)


def test_a_column_that_holds_no_text_is_refused(tmp_path):
    chat = written(tmp_path / "a.jsonl", '{"id": 1, "messages": [{"content": "x"}]}')
    with pytest.raises(InputError, match="no column of text, only id, messages"):
        texts(chat)
    with pytest.raises(InputError, match=r"a\.jsonl:1: column 'messages' holds a list, not text"):
        texts(chat, text_field="messages")


def test_malformed_json_names_file_and_line(tmp_path):
    lines = written(tmp_path / "a.jsonl", '{"text": "a"}\n\n{"text": }\n')
    whole = written(tmp_path / "b.json", '[\n"a",\n')
    with pytest.raises(InputError, match=r"a\.jsonl, line 3: malformed JSON"):
        texts(lines)
    with pytest.raises(InputError, match=r"b\.json, line 3: malformed JSON"):
        texts(whole)
    with pytest.raises(InputError, match=r"c\.json:2 is a int"):
        texts(written(tmp_path / "c.json", '["a", 7]'))


def test_line_separators_within_json_strings_do_not_end_a_line(tmp_path):
    assert texts(written(tmp_path / "a.jsonl", '"a\u2028b\x85c"\n')) == ["a\u2028b\x85c"]


def test_a_byte_order_mark_and_line_ends_leave_no_trace(tmp_path):
    assert texts(written(tmp_path / "a.txt", b"\xef\xbb\xbfa\r\nb\rc")) == ["a\nb\nc"]


def test_unreadable_files_are_named_together_or_skipped(tmp_path):
    good = written(tmp_path / "good.txt", "fine")
    for number in range(4):
        written(tmp_path / f"cut{number}.txt", "größer".encode()[:-3])
    written(tmp_path / "binary.txt", b"a\0b")
    written(tmp_path / "broken.jsonl.gz", b"not gzip")
    written(tmp_path / "broken.parquet", b"not parquet")
    with pytest.raises(InputError) as raised:
        texts(tmp_path)
    message = str(raised.value)
    assert "binary.txt (binary)" in message
    assert "cut1.txt (damaged UTF-8)" in message
    assert "cut2" not in message
    assert "and 2 more" in message
    assert "--skip_unreadable" in message
    documents = DocumentStream([str(tmp_path)], skip_unreadable=True)
    assert [item.source for item in documents] == [str(good)]
    assert len(documents.skipped) == 7
    assert str(tmp_path / "binary.txt") in documents.skipped


def test_empty_and_repeated_documents_are_counted_and_the_first_kept(tmp_path):
    path = written(tmp_path / "a.json", json.dumps(["b", " \n", "a", " b\n", "", "a"]))
    documents = DocumentStream([str(path), str(path)])
    assert [item.text for item in documents] == ["b", "a"]
    assert (documents.empty, documents.repeated) == (4, 6)


def test_nothing_with_text_is_an_error(tmp_path):
    path = written(tmp_path / "a.txt", " \n")
    with pytest.raises(InputError, match=r"no documents with text in .*a\.txt; supported: \.txt"):
        texts(path)
    with pytest.raises(InputError, match="no documents with text"):
        texts()


def test_seen_texts_answer_as_a_set_does():
    source = random.Random(0)
    seen, expected = SeenTexts(), set()
    for _ in range(20_000):
        text = str(source.randrange(12_000))
        assert seen.add(text) == (text not in expected)
        expected.add(text)
    assert len(seen) == len(expected)


def test_a_seen_text_takes_few_bytes():
    tracemalloc.start()
    seen = SeenTexts()
    for number in range(100_000):
        seen.add(str(number))
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 25 * len(seen)
