import pytest

from minifinetuning.data import DocumentStream, read_documents
from minifinetuning.errors import InputError

GERMAN = "Die Prüfung größerer Geräte erfolgt jährlich, auch am Café „Süd“.\n"
RUSSIAN = "Привет, это руководство. Сотрудники обязаны соблюдать правила.\n"


@pytest.mark.parametrize(
    ("text", "encoding", "said"),
    [
        (GERMAN, "utf-8", None),
        (GERMAN, "utf-8-sig", None),
        (GERMAN, "utf-16", "utf-16"),
        (GERMAN, "utf-32", "utf-32"),
        (GERMAN, "utf-16-le", "utf-16-le"),
        (GERMAN, "utf-16-be", "utf-16-be"),
        (GERMAN, "cp1252", "cp1252"),
        ("A naïve “word” in quotes — kept below 25 °C, for €5 a piece.\n", "cp1252", "cp1252"),
        ("A long text in English. " * 5000 + "One café.\n", "cp1252", "cp1252"),
        ("Não há solução: a informação\n", "cp1252", "cp1252"),
        ("Zażółć gęślą jaźń, pracownicy są zobowiązani.\n", "cp1250", "cp1250"),
        (RUSSIAN, "cp1251", "cp1251"),
        (RUSSIAN, "koi8_r", "koi8-r"),
        (
            "これは手引きです。社員は規則を守らなければなりません。\n",
            "shift_jis",
            "shift-jis",
        ),
        ("这是公司的手册。所有员工都必须遵守规则。\n", "gb18030", "gb18030"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.csv"])
def test_common_encodings_are_recognised_and_said(text, encoding, said, name, tmp_path):
    path = tmp_path / name
    cell = text.strip()
    path.write_bytes((f'text,n\n"{cell}",1\n' if name == "a.csv" else text).encode(encoding))
    stream = DocumentStream([str(path)])
    assert [document.text.strip() for document in stream] == [cell]
    expected = [] if said is None else [f"read as {said}, as which it was recognised: {path}"]
    assert stream.notes == expected


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a\0b", "binary"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "binary"),
        (bytes(range(1, 256)) * 20, "in no encoding that could be recognised"),
        ("größer und länger, für alle".encode()[:-1] + b"\xfcr", "damaged UTF-8"),
        (("ü" * 70_000).encode() + b"\xff", "damaged UTF-8"),
        ("größer".encode("utf-16") + b"\0\xd8", "damaged UTF-16"),
    ],
)
def test_what_is_no_text_is_named_with_its_reason(content, reason, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.txt \({reason}\)"):
        read_documents([str(path)])
