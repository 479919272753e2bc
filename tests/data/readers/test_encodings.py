# ruff: noqa: RUF001
import pytest

from minifinetuning.data import DocumentStream
from minifinetuning.errors import InputError

GERMAN = "Die Prüfung größerer Geräte erfolgt jährlich, auch am Café „Süd“.\n"
ENGLISH = "The pump must be checked before each use. Refer to the table for the limits. " * 60
SIGNS = [
    "25 °C.\n",
    "5 m² ± 3 %\n",
    "£5 and €6\n",
    "“stop” – don’t\n",
    "a 5 µm filter, ½ full\n",
    "São Paulo\n",
    "§ 8\n",
    "— he was\n",
    "Menière\n",
    "a radical (•NO)\n",
    "Gödel\n",
]
CZECH = "Když jsme přišli domů, bylo už pozdě. Paní učitelka řekla, že zítra bude prázdno.\n"
HUNGARIAN = "A kertben sok szép virág nyílik, de az őszi eső elmosta az ösvényt a tűz mellett.\n"
GREEK = "Η Ελλάδα είναι μια όμορφη χώρα. Άνοιξη και καλοκαίρι ο ήλιος λάμπει. Ήταν έξι.\n"
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
        # A few signs in a text that is ASCII for the most part are those of Windows in the west.
        *((ENGLISH + signs, "cp1252", "cp1252") for signs in SIGNS),
        ("Åsa går på gatan, här är öl å ä ö.\n", "cp1252", "cp1252"),
        ("Le cœur de la sœur bat. Où êtes-vous, ça ?\n", "iso8859_15", "iso8859-15"),
        ("the bank’s view — and she doesn’t say Óbidos. " * 40, "cp1252", "cp1252"),
        (CZECH, "cp1250", "cp1250"),
        (CZECH, "iso8859_2", "iso8859-2"),
        (HUNGARIAN, "iso8859_2", "cp1250"),
        ("Güneşli bir gün, çocuklar oynuyordu. Ağaçların altında kuşlar.\n", "cp1254", "cp1254"),
        (GREEK, "iso8859_7", "iso8859-7"),
        (GREEK, "cp1253", "cp1253"),
        ("“Don’t go,” she said – it’s a café. " * 9, "mac_roman", "mac-roman"),
        ("すべての社員は規則を守ること。これは手引きである。\n", "euc_jp", "euc-jp"),
        (RUSSIAN, "cp1251", "cp1251"),
        (RUSSIAN, "koi8_r", "koi8-r"),
        (
            "これは手引きです。社員は規則を守らなければなりません。\n",
            "shift_jis",
            "shift-jis",
        ),
        # Words of another script are told from few letters, and within English too.
        ("כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.\n", "cp1255", "cp1255"),
        ("يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.\n", "cp1256", "cp1256"),
        ("มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกัน\n", "cp874", "cp874"),
        ("모든 인간은 태어날 때부터 자유로우며 동등하다.\n", "euc_kr", "cp949"),
        ("人人生而自由,在尊嚴和權利上一律平等。他們賦有理性。\n", "big5", "big5"),
        (f"{ENGLISH}\n{RUSSIAN}{ENGLISH}\n", "cp1251", "cp1251"),
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
        list(DocumentStream([str(path)]))


def test_what_is_unsure_is_said_to_be_so(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("Noć.".encode("cp1250"))
    stream = DocumentStream([str(path)])
    assert len([*stream]) == 1
    assert "perhaps wrongly: look at its letters" in stream.notes[0]


@pytest.mark.parametrize(
    ("front", "encoding", "text", "said"),
    [
        ('<meta charset="windows-1251">', "cp1251", "Ёж", "cp1251"),
        ("<META charset = shift_jis>", "shift_jis", "猫", "cp932"),
        ("<meta charset='iso-8859-1'>", "cp1252", "“São”", "cp1252"),
        (
            '<meta http-equiv="Content-Type" content="text/html; charset=iso-8859-2">',
            "iso8859_2",
            "Noć",
            "iso8859-2",
        ),
        ('<?xml version="1.0" encoding="iso-8859-7"?>', "iso8859_7", "Άρα", "iso8859-7"),
        ('<meta charset="iso-2022-jp">', "iso2022_jp", "猫", "iso2022-jp"),
        # What does not hold, or is unknown, is passed over.
        ('<meta charset="utf-8">', "cp1252", "für Größe", None),
        ('<meta charset="klingon">', "cp1252", "für Größe", None),
        ('<meta charset="iso-8859-1">', "utf-8", "für Größe", None),
        ('<meta charset="base64">', "utf-8", "für Größe", None),
    ],
)
def test_a_page_says_its_encoding_itself(front, encoding, text, said, tmp_path):
    path = tmp_path / "a.html"
    path.write_bytes(f"{front}<p>{text}</p>".encode(encoding))
    stream = DocumentStream([str(path)])
    assert [document.text for document in stream] == [text]
    assert not said or stream.notes == [f"read as {said}, as it says itself: {path}"]


def test_what_a_text_says_of_encodings_is_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes('<meta charset="cp1251">für die Größe'.encode("cp1252"))
    assert next(iter(DocumentStream([str(path)]))).text.endswith("Größe")
