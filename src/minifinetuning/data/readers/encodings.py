"""In which encoding a text is written: by its mark, as it says, or guessed from its bytes.

Scripts other than Latin are told by Resiliparse. Latin letters are told here, by the language that
they then make: such detectors take the few signs of an English text for letters of some other one.
"""

import codecs
import math
import re
from functools import cache
from typing import NamedTuple

UTF_8 = "utf_8_sig"

_MARKS = {
    UTF_8: (codecs.BOM_UTF8,),
    # The longer ones first: that of UTF-16 is their front.
    "utf_32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "utf_16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}
_DECLARED = re.compile(
    rb"""<\?xml\b[^>]*?\bencoding\s*=\s*["']([\w.:-]+)|<meta\b[^>]*?\bcharset\s*=\s*["']?\s*([\w.:-]+)""",
    re.IGNORECASE,
)
_MEANT = {
    # As browsers have it: what pages that say the one are written in.
    "ascii": "cp1252", "iso8859-1": "cp1252", "iso8859-9": "cp1254",
    "tis-620": "cp874", "iso8859-11": "cp874",
    "shift_jis": "cp932", "euc_kr": "cp949", "gb2312": "gb18030", "gbk": "gb18030",
}  # fmt: skip

_CONTROLS = re.compile(rb"[\x01-\x07\x0e-\x1a\x1c-\x1f\x7f]")
_MOST_CONTROLS = 0.005
"""The share of control characters up to which a file is text."""

_OTHER_SCRIPTS = (
    "cp1251", "cp1253", "cp1255", "cp1256", "cp874", "iso8859-7", "koi8-r",
    "shift_jis", "euc_jp", "gb18030", "big5", "cp949",
)  # fmt: skip
"""Of all that there are: a rare one fits many a short text too, and is then taken for it."""
_OF_WINDOWS = {"iso8859-6": "cp1256", "iso8859-8": "cp1255", "tis-620": "cp874"}
"""What text that looks like the one is mostly written in."""
_MANY = 30
"""Bytes beyond ASCII above which another script is surely told from others."""

_LANGUAGES = {
    # The letters beyond ASCII of each language, the frequent ones first.
    "english": "éïèêçñöüáíóäåàôãâøæëœ",
    "german": "üäößéáàèçëñ",
    "french": "éàèêçôûîùâïœëüÿæ",
    "spanish": "óíáéñúüçªº",
    "portuguese": "ãçáéíóõêâúàôªº",
    "italian": "àèùòìéî",
    "dutch": "ëéïöüèêóáç",
    "swedish": "äåöéüàø",
    "danish": "æøåéöäüóòôêð",
    "icelandic": "ðáíþöóéúæý",
    "catalan": "àéóèòíúçïü·",
    "polish": "łążęóśćńźéüö",
    "czech": "íáéěřýžčšůúďťóňöü",
    "slovak": "áíéýžčšľúťôóňďäěřůŕĺ",
    "hungarian": "áéöőóüíúűä",
    "croatian": "čšžćđöé",
    "romanian": "ăîâşţéöü",
    "turkish": "ıüşçğöİâîû",
}
_SIGNS = "’“”–‘—°…€„«»‚²§±£µ·•×³®©™½¼¾¿¡†‰÷¹´‹›¢¥¶º\xa0\xad"  # noqa: RUF001
_WITHIN_WORDS = "’‘–—·\xad"  # noqa: RUF001
_WORDS = "àéèíóåöøæáúâôÀÉÈÓÍÅÖØÆÁÚ"
"""Letters that may stand by themselves."""
_OF_SIGNS = {"english": 0.7}
_OF_SIGNS_ELSE = 0.25
"""The share of signs among what is beyond ASCII, by language."""

_LATIN = {
    # In what each is worth (in nats) before a letter is seen: how frequent files in it are.
    "cp1252": (0.0, "english german french spanish portuguese italian dutch swedish danish "
               "icelandic catalan"),
    "iso8859_15": (-3.0, "french german swedish spanish portuguese"),
    "cp1250": (-3.0, "polish czech slovak hungarian croatian romanian"),
    "iso8859_2": (-3.5, "polish czech slovak hungarian croatian romanian"),
    "cp1254": (-3.0, "turkish"),
    "mac_roman": (-10.0, "english german french spanish portuguese italian swedish danish"),
    "cp850": (-10.0, "english german french spanish portuguese italian swedish danish"),
}  # fmt: skip

_OLD = {"mac_roman": -1.0, "cp850": -1.0}
"""Nats a letter by which encodings of before 2000 must do better: they have letters for signs."""
_RARE = math.log(0.0005)
_SPARSE = 0.01
"""The share of letters beyond ASCII below which a text is English for the most part ..."""
_OF_SPARSE = -8.0
"""... and any encoding but that of Windows in the west worth less ..."""
_NOT_ENGLISH = math.log(0.2)
"""... as is, for each letter, any other language."""
_WRONG_PLACE = -5.0
"""For a letter beside a digit or without any other, and for a sign within a word."""
_SURE = 5.0
"""As many nats before the next best reading, and nobody need doubt the best one."""
_PLAUSIBLE = -5.5
"""Nats a letter, on average, below which no language was recognised."""
_MOST = 4096
"""Letters beyond ASCII that are looked at: enough for any language."""


class Guess(NamedTuple):
    """An encoding, whether no other one is nearly as likely, and whether it makes words."""

    encoding: str
    is_sure: bool
    is_plausible: bool = True


def marked_encoding(front: bytes) -> str | None:
    """The encoding that a file's front says: its mark, or the zero bytes of UTF-16 without one."""
    for encoding, marks in _MARKS.items():
        if front.startswith(marks):
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
    latin = _latin_encoding(sample)
    is_foreign = count > len(re.findall(rb"[A-Za-z]", whole))
    is_latin = latin is not None and (latin.is_plausible or not is_foreign)
    # Letters beyond ASCII stand alone in Latin text, and make whole words of other scripts.
    if not is_latin or count >= 2 * len(runs):
        encoding = _other_script(whole)
        if encoding is not None:
            return Guess(encoding, is_sure=count > _MANY)
    return latin if is_latin else None


def _other_script(sample: bytes) -> str | None:
    """The encoding of a script other than Latin, where it looks like one that is common."""
    from resiliparse.parse.encoding import detect_encoding

    # Its own names: those of the web leave out the Korean of Windows.
    name = detect_encoding(sample, html5_compatible=False) or ""
    encoding: str = _OF_WINDOWS.get(name, name)
    return encoding if encoding in _OTHER_SCRIPTS else None


def _latin_encoding(sample: bytes) -> Guess | None:
    """The encoding in which the sample is best read as a language in Latin letters.

    None where none of them decodes it. Where nothing speaks for another it is that of Windows in
    the west, the most frequent.
    """
    is_sparse = sum(byte > 127 for byte in sample) < _SPARSE * len(sample)
    readings: dict[str, tuple[float, str, float]] = {}
    for encoding, (prior, languages) in _LATIN.items():
        try:
            text = sample.decode(encoding)
        except UnicodeDecodeError:
            continue
        found = [*re.finditer(r"[^\0-\x7f]", text)][:_MOST]
        read = "".join(one[0] for one in found)
        if re.search(r"[\x80-\x9f]", read):
            continue
        prior += len(read) * _OLD.get(encoding, 0)
        if is_sparse and encoding != "cp1252":
            prior += _OF_SPARSE
        score = sum(_misplaced(text, one.start()) for one in found) * _WRONG_PLACE + max(
            sum(_likelihoods(name).get(letter.lower(), _RARE) for letter in read)
            + (len(read) * _NOT_ENGLISH if is_sparse and name != "english" else 0)
            for name in languages.split()
        )
        if read not in readings or readings[read][0] < prior + score:
            readings[read] = (prior + score, encoding, score / max(len(read), 1))
    if not readings:
        return None
    (best, encoding, mean), *others = sorted(readings.values(), reverse=True)
    is_plausible = mean > _PLAUSIBLE
    is_sure = is_plausible and all(best - other > _SURE for other, _, _ in others)
    return Guess(encoding, is_sure, is_plausible)


@cache
def _likelihoods(language: str) -> dict[str, float]:
    """The logarithm of how frequent each letter and sign is among those beyond ASCII."""
    shares: dict[str, float] = {}
    of_signs = _OF_SIGNS.get(language, _OF_SIGNS_ELSE)
    for signs, of_all in ((_LANGUAGES[language], 1 - of_signs), (_SIGNS, of_signs)):
        # As Zipf has it: each is as frequent as the first, divided by its place.
        whole = sum(1 / place for place in range(1, len(signs) + 1))
        for place, sign in enumerate(signs, start=1):
            shares[sign] = shares.get(sign, 0) + of_all / place / whole
    return {sign: math.log(share) for sign, share in shares.items()}


def _misplaced(text: str, at: int) -> int:
    """How many times over what stands here does not belong beside its neighbours."""
    one, before, after = text[at], text[max(at - 1, 0) : at], text[at + 1 : at + 2]
    if not one.isalpha():
        return before.isalpha() and after.isalpha() and one not in _WITHIN_WORDS
    if one in "ªºµ":
        return not (before.isalnum() or after.isalpha())
    is_beside_digit = before.isdigit() or after.isdigit()
    is_capital_within = one.isupper() and (
        before.islower() or (before.isupper() and after.islower())
    )
    is_alone = not before.isalpha() and not after.isalpha() and one not in _WORDS
    return (is_beside_digit or is_capital_within) + is_alone
