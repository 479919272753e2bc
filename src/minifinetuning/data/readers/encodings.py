"""In which encoding a file is written: by its mark, as it says, or guessed from its bytes."""

import codecs
import re
from typing import NamedTuple

from charset_normalizer import from_bytes

from minifinetuning.data.readers.latin import latin_encoding

UTF_8 = "utf_8_sig"

_MARKS = (
    (codecs.BOM_UTF8, UTF_8),
    # The longer ones first: that of UTF-16 is their front.
    (codecs.BOM_UTF32_LE, "utf_32"),
    (codecs.BOM_UTF32_BE, "utf_32"),
    (codecs.BOM_UTF16_LE, "utf_16"),
    (codecs.BOM_UTF16_BE, "utf_16"),
)

_OTHER_SCRIPTS = (
    *("cp1251", "cp1253", "cp1255", "cp1256", "cp874", "iso8859_7", "koi8_r"),
    *("shift_jis", "euc_jp", "gb18030", "big5", "euc_kr"),
)
"""Of all that there are: a rare one fits many a short text too, and is then taken for it."""

_TIDY = 0.1
"""The most disorder (0 to 1, charset-normalizer's measure) of text that was decoded rightly."""

_LONG_RUN = 2.5
"""Bytes beyond ASCII in a row, on average, from which on words are of another script than Latin."""
_FEW = 12
"""Bytes beyond ASCII up to which Latin letters go before another script, where they make sense."""

_MANY = 30
"""As many, and another script is surely told from others."""
_OF_JAPANESE = 0.25
"""The share of hiragana that Japanese has at least."""
_OF_RUSSIAN = 0.8
"""The share of small letters that Russian has at least."""
_SIBLINGS = (("cp1253", "iso8859_7"), ("cp1251", "koi8_r"))

_CONTROLS = re.compile(rb"[\x01-\x07\x0e-\x1a\x1c-\x1f\x7f]")
_MOST_CONTROLS = 0.005
"""The share of control characters up to which a file is text."""

_DECLARED = re.compile(
    rb"""<\?xml\b[^>]*?\bencoding\s*=\s*["']([\w.:-]+)|<meta\b[^>]*?\bcharset\s*=\s*["']?\s*([\w.:-]+)""",
    re.IGNORECASE,
)
_MEANT = {
    # As browsers have it: what pages that say the one are written in.
    **dict.fromkeys(("ascii", "iso8859-1"), "cp1252"),
    **{"iso8859-9": "cp1254", "tis-620": "cp874", "iso8859-11": "cp874"},
    **{"shift_jis": "cp932", "euc_kr": "cp949", "gb2312": "gb18030", "gbk": "gb18030"},
}


class Guess(NamedTuple):
    """An encoding, and whether no other one is nearly as likely."""

    encoding: str
    is_sure: bool


def marked_encoding(front: bytes) -> str | None:
    """The encoding that a file's front says: its mark, or the zero bytes of UTF-16 without one."""
    for mark, encoding in _MARKS:
        if front.startswith(mark):
            return encoding
    letters = len(front) // 2
    high, low = front[0::2].count(0), front[1::2].count(0)
    # Most letters of the scripts of Europe have a zero byte, always at the same side.
    if letters > 3 and max(high, low) > letters / 3 and min(high, low) < letters / 50:
        return "utf_16_be" if high > low else "utf_16_le"
    return None


def declared_encoding(front: bytes) -> str | None:
    """The encoding that an HTML page says it has, in a `meta` element or as XML.

    None where it says none, or one that is unknown or no encoding of text.
    """
    found = _DECLARED.search(front)
    return None if found is None else known_encoding((found[1] or found[2]).decode("ascii"))


def known_encoding(said: str) -> str | None:
    """The encoding that is meant by a name on the web or in a mail; None where it is unknown."""
    try:
        name = codecs.lookup(said).name
        b"".decode(name)
    except (LookupError, ValueError):
        return None
    return _MEANT.get(name, name)


def guessed_encoding(sample: bytes) -> Guess | None:
    """The common encoding that the bytes look like; None where they look like none.

    Where several fit equally well it is that of Windows in the west, the most frequent.
    """
    if len(_CONTROLS.findall(sample)) > _MOST_CONTROLS * len(sample):
        return None
    # A letter of several bytes may be cut at either end.
    lines = sample.split(b"\n")
    whole = b"\n".join(lines[1:-1]) if len(lines) > 3 else sample
    runs = re.findall(rb"[\x80-\xff]+", whole) or re.findall(rb"[\x80-\xff]+", sample)
    count = sum(map(len, runs))
    is_foreign = count > len(re.findall(rb"[A-Za-z]", whole))
    latin = latin_encoding(sample)
    if latin is not None and (
        count < 2 * len(runs) and latin.is_plausible
        if is_foreign
        else count < _LONG_RUN * len(runs) or (count <= _FEW and latin.is_plausible)
    ):
        return Guess(latin.encoding, latin.is_sure)
    encoding = _telling(whole)
    if encoding is None:
        best = from_bytes(whole, cp_isolation=[*_OTHER_SCRIPTS], threshold=_TIDY).best()
        encoding = None if best is None else _sibling(best.encoding, whole)
    if encoding is not None:
        return Guess(encoding, is_foreign and count > _MANY)
    if latin is None or (is_foreign and not latin.is_plausible):
        return None
    return Guess(latin.encoding, is_sure=False)


def _telling(sample: bytes) -> str | None:
    """The encoding in which the sample has what hardly any other text has when misread."""
    for encoding in ("shift_jis", "euc_jp", "koi8_r"):
        text = sample.decode(encoding, "replace")
        foreign = re.sub(r"[\0-\x7f]", "", text)
        # Japanese has many hiragana; words of KOI8-R are in capitals in all other Russian.
        letters = r"[а-яё]" if encoding == "koi8_r" else r"[ぁ-ゖ]"  # noqa: RUF001
        share = _OF_RUSSIAN if encoding == "koi8_r" else _OF_JAPANESE
        if len(re.findall(letters, foreign)) > share * len(foreign) and text.count("\ufffd") < 2:
            return encoding
    return None


def _sibling(encoding: str, sample: bytes) -> str:
    """Of two encodings of one script, which differ in little, that with fewer odd letters."""

    def odd(name: str) -> int:
        # Of Greek some letters are others' signs; of Russian small letters are others' capitals.
        text = sample.decode(name, "replace")
        return len(re.findall(r"[\ufffd\x80-\x9f]|[¢¶]\w|\w[¢¶]|[А-Я]", text))  # noqa: RUF001

    siblings = next((group for group in _SIBLINGS if encoding in group), (encoding,))
    return min(siblings, key=odd)
