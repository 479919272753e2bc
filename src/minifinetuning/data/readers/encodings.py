"""In which encoding a file is written: by the mark at its front, or guessed from its bytes."""

import codecs

from charset_normalizer import from_bytes

UTF_8 = "utf_8_sig"

_MARKS = (
    (codecs.BOM_UTF8, UTF_8),
    # The longer ones first: that of UTF-16 is their front.
    (codecs.BOM_UTF32_LE, "utf_32"),
    (codecs.BOM_UTF32_BE, "utf_32"),
    (codecs.BOM_UTF16_LE, "utf_16"),
    (codecs.BOM_UTF16_BE, "utf_16"),
)

_COMMON = (
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256"),
    *("iso8859_2", "iso8859_7", "iso8859_15", "koi8_r"),
    *("shift_jis", "euc_jp", "gb18030", "big5", "euc_kr"),
)
"""Of all that there are: a rare one fits many a short text too, and is then taken for it."""

_TIDY = 0.1
"""The most disorder (0 to 1, charset-normalizer's measure) of text that was decoded rightly."""


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


def guessed_encoding(sample: bytes) -> str | None:
    """The common encoding that the bytes look like; None where they look like none.

    Where several fit equally well it is that of Windows in the west, the most frequent.
    """
    # A letter of several bytes may be cut at either end.
    lines = sample.split(b"\n")
    found = from_bytes(
        b"\n".join(lines[1:-1]) if len(lines) > 3 else sample,
        cp_isolation=[*_COMMON],
        threshold=_TIDY,
    )
    best = found.best()
    if best is None:
        return None
    for match in found:
        as_good = (match.chaos, match.coherence) == (best.chaos, best.coherence)
        if as_good and "cp1252" in (match.encoding, *match.could_be_from_charset):
            return "cp1252"
    return best.encoding
