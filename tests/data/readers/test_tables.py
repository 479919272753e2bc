import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from minifinetuning.data import DocumentStream
from minifinetuning.errors import InputError


def read(path, content, text_field=None):
    if content is not None:
        path.write_text(content, encoding="utf-8")
    stream = DocumentStream([str(path)], text_field)
    return [document.text for document in stream], stream.notes


@pytest.mark.parametrize(("sign", "word"), [(";", "semicolon"), ("\t", "tab"), ("|", "bar")])
def test_other_delimiters_are_recognised_and_said(sign, word, tmp_path):
    rows = [["id", "text"], ["1", "one, two, three"], ["2", '"a\nb"'], ["3", "x, y"]]
    path = tmp_path / "a.csv"
    content = "\n".join(sign.join(row) for row in rows)
    assert read(path, content) == (
        ["one, two, three", "a\nb", "x, y"],
        [f"cells taken as cut by {word}s: {path}"],
    )


def test_the_cells_of_a_tsv_are_cut_by_tabs(tmp_path):
    assert read(tmp_path / "a.tsv", "id\ttext\n1\ta, b; c\n") == (["a, b; c"], [])


def test_one_column_may_hold_any_sign(tmp_path):
    texts = ["a; b", "c", "d; e; f | g"]
    assert read(tmp_path / "a.csv", "\n".join(["text", *texts])) == (texts, [])


def test_a_text_column_with_semicolons_is_cut_by_commas(tmp_path):
    assert read(tmp_path / "a.csv", "id,text\n1,a; b\n2,c\n") == (["a; b", "c"], [])


def test_many_rows_decide_and_a_row_cut_off_in_quotes_does_not_matter(tmp_path):
    rows = "".join(f'{n};"a, {"x" * 3000}\nb"\n' for n in range(200))
    texts, notes = read(tmp_path / "a.csv", "id;text\n" + rows)
    assert len(set(texts)) == 1
    assert "semicolons" in notes[0]


def test_what_cannot_be_told_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"a\.csv: it cannot be told what stands between"):
        read(tmp_path / "a.csv", "id;text\n1;a;b\n2;c\n")
    with pytest.raises(InputError, match=r"a\.csv: it cannot be told what stands between"):
        read(tmp_path / "a.csv", "id;text|n\n1;a|2\n")


def test_ndjson_is_json_lines(tmp_path):
    assert read(tmp_path / "a.ndjson", '{"text": "x"}\n"y"\n') == (["x", "y"], [])


BOOK = {"title": "A", "pages": ["Page one is here.", "Page two is here."], "year": 1999}


def test_an_object_with_a_list_of_texts_is_not_its_title(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(InputError, match=r"a\.json is one object with text in the list pages.*"):
        read(path, json.dumps(BOOK))
    assert read(path, json.dumps(BOOK), "pages") == (
        BOOK["pages"],
        [f"the list 'pages' taken as rows, and nothing else of the file: {path}"],
    )
    assert read(path, json.dumps(BOOK), "title")[0] == ["A"]
    objects = {"title": "A", "text": [{"text": "one"}, {"text": "two"}]}
    assert read(path, json.dumps(objects))[0] == ["one", "two"]


def test_the_only_column_of_strings_is_not_taken_beside_texts_in_lists(tmp_path):
    with pytest.raises(InputError, match=r"text within pages, .* --text_field one of title"):
        read(tmp_path / "a.jsonl", json.dumps(BOOK))
    assert read(tmp_path / "a.jsonl", json.dumps(BOOK), "title")[0] == ["A"]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([BOOK]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="text within pages"):
        read(tmp_path / "a.parquet", None)
    datasets.Dataset.from_list([BOOK]).save_to_disk(tmp_path / "saved")
    with pytest.raises(InputError, match="text within pages"):
        read(tmp_path / "saved", None)


def test_tags_are_no_text_and_the_column_taken_is_said(tmp_path):
    row = {"body": "The text.", "tags": ["a", "b"], "n": 1}
    said = "the column 'body' taken as the text, the only one that holds text: "
    path = tmp_path / "a.jsonl"
    assert read(path, json.dumps(row)) == (["The text."], [f"{said}{path}"])
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    assert read(path, None) == (["The text."], [f"{said}{path}"])


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.ipynb"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [("[" * 100_000, "nested too deeply"), ("[" + "9" * 5000 + "]", "too many digits")],
)
def test_json_that_python_cannot_read_is_one_sentence(name, content, reason, tmp_path):
    with pytest.raises(InputError, match=rf"a\.\w+, line 1: malformed JSON \(.*{reason}\)"):
        read(tmp_path / name, content)


def test_the_split_that_is_taken_is_said(tmp_path):
    part = {name: datasets.Dataset.from_dict({"text": [name]}) for name in ("train", "test")}
    datasets.DatasetDict(part).save_to_disk(tmp_path / "saved")
    assert read(tmp_path / "saved", None) == (
        ["train"],
        [f"the split train taken, not test: {tmp_path / 'saved'}"],
    )


def test_texts_in_scripts_without_spaces_are_texts(tmp_path):
    book = {"title": "标题", "pages": ["今天天气很好,我们去公园散步。", "明天可能会下雨。"]}
    with pytest.raises(InputError, match="text in the list pages"):
        read(tmp_path / "a.json", json.dumps(book))
    with pytest.raises(InputError, match="text within pages"):
        read(tmp_path / "a.jsonl", json.dumps(book))
    tagged = {"body": "标题", "tags": ["机器学习"]}
    assert read(tmp_path / "a.jsonl", json.dumps(tagged))[0] == ["标题"]


def test_settings_are_no_document(tmp_path):
    content = json.dumps({"compilerOptions": {"target": "es5"}, "name": "mytool"})
    with pytest.raises(InputError, match="one object without text, as settings are"):
        read(tmp_path / "tsconfig.json", content)


def test_rows_whose_text_is_in_another_column_are_not_empty(tmp_path):
    path = tmp_path / "a.jsonl"
    other = "".join(json.dumps({"content": f"Text number {n}"}) + "\n" for n in range(9))
    few = other + "".join(json.dumps({"text": f"only {n}"}) + "\n" for n in range(2))
    with pytest.raises(InputError, match="9 of 11 rows have no column 'text', but text in content"):
        read(path, few)
    many = other + "".join(json.dumps({"text": f"only {n}"}) + "\n" for n in range(11))
    texts, notes = read(path, many)
    assert len(texts) == 11
    assert notes == [f"9 of 20 rows have no column 'text', but text in content: {path}"]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.tsv", "a.mbox"])
def test_a_table_without_rows_is_said(name, tmp_path):
    (tmp_path / "ok.txt").write_text("some text")
    (tmp_path / name).write_text("text\n" if name in ("a.csv", "a.tsv") else "")
    stream = DocumentStream([str(tmp_path)])
    assert len([*stream]) == 1
    assert stream.notes == [f"a table without rows: {tmp_path / name}"]


def test_a_single_column_without_a_header_loses_no_text(tmp_path):
    path = tmp_path / "a.csv"
    assert read(path, "First document text here.\nSecond document text.\n") == (
        ["First document text here.", "Second document text."],
        [f"its first line taken as text, not as a header: {path}"],
    )
    with pytest.raises(InputError, match="no column 'body'"):
        read(path, "First document text here.\nSecond document text.\n", "body")
    said = f"the first line, 'feedback', taken as a header: {path}"
    assert read(path, "feedback\nSecond document text.\n") == (["Second document text."], [said])


def test_of_two_columns_of_one_name_none_is_taken(tmp_path):
    with pytest.raises(InputError, match="several columns 'text': rename all but one"):
        read(tmp_path / "a.csv", "text,text\na,b\n")
    assert read(tmp_path / "a.csv", "n,n,text\na,b,c\n")[0] == ["c"]


@pytest.mark.parametrize(
    ("rows", "line"),
    [('1,one\n2,"a" b\n3,three\n', 3), ('1,one\n2,"a\n3,three\n', 3), ("1,a\n2,b,c\n", 3)],
)
def test_an_error_names_the_line_where_it_is(rows, line, tmp_path):
    with pytest.raises(InputError, match=rf"a\.csv, line {line}: malformed CSV"):
        read(tmp_path / "a.csv", "id,text\n" + rows)


def test_quotation_marks_in_a_tsv_may_be_text(tmp_path):
    path = tmp_path / "a.tsv"
    said = f"quotation marks taken as text, since they do not enclose cells: {path}"
    assert read(path, 'id\ttext\n1\t"Quoted" start\n2\t5" pipe\n') == (
        ['"Quoted" start', '5" pipe'],
        [said],
    )
    assert read(path, 'id\ttext\n1\t"Quoted, a\ttab"\n') == (["Quoted, a\ttab"], [])
    with pytest.raises(InputError, match=r"a\.tsv, line 3: malformed CSV \(more cells"):
        read(path, 'id\ttext\n1\t"x" y\n2\ta\tb\n')
