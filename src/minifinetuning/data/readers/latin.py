"""Which 8-bit encoding a text in Latin letters is written in, by the letters that it then has."""

import math
import re
from functools import cache
from typing import NamedTuple

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
_WORDS = "àéèíáåöøæőâ"
"""Letters that may stand by themselves."""
_SIGNS = "’“”–‘—°…€„«»‚²§±£µ·•×³®©™½¼¾¿¡†‰÷¹´‹›¢¥¶º\xa0\xad"  # noqa: RUF001
_OF_SIGNS = {"english": 0.7}
_OF_SIGNS_ELSE = 0.25
"""The share of signs among what is beyond ASCII, by language."""

_ENCODINGS = {
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


class LatinGuess(NamedTuple):
    """An encoding, whether others are far behind, and whether it makes words of a language."""

    encoding: str
    is_sure: bool
    is_plausible: bool


def latin_encoding(sample: bytes) -> LatinGuess | None:
    """The encoding in which the sample is best read as a language in Latin letters.

    None where none of them decodes it. Where nothing speaks for another it is that of Windows in
    the west, the most frequent.
    """
    is_sparse = sum(byte > 127 for byte in sample) < _SPARSE * len(sample)
    readings: dict[str, tuple[float, str, float]] = {}
    for encoding, (prior, languages) in _ENCODINGS.items():
        try:
            text = sample.decode(encoding)
        except UnicodeDecodeError:
            continue
        found = [*re.finditer(r"[^\0-\x7f]", text)][:_MOST]
        if any("\x80" <= one[0] < "\xa0" for one in found):
            continue
        prior += len(found) * _OLD.get(encoding, 0)
        placed = sum(_place(text, one.start()) for one in found)
        if is_sparse and encoding != "cp1252":
            prior += _OF_SPARSE
        score = placed + max(
            sum(_likelihoods(name).get(one[0].lower(), _RARE) for one in found)
            + (len(found) * _NOT_ENGLISH if is_sparse and name != "english" else 0)
            for name in languages.split()
        )
        read = "".join(one[0] for one in found)
        if read not in readings or readings[read][0] < prior + score:
            readings[read] = (prior + score, encoding, score / max(len(found), 1))
    if not readings:
        return None
    (best, encoding, mean), *others = sorted(readings.values(), reverse=True)
    return LatinGuess(
        encoding,
        mean > _PLAUSIBLE and all(best - other > _SURE for other, _, _ in others),
        mean > _PLAUSIBLE,
    )


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


def _place(text: str, at: int) -> float:
    """Less than nothing where what stands here does not belong beside its neighbours."""
    one, before, after = text[at], text[max(at - 1, 0) : at], text[at + 1 : at + 2]
    if not one.isalpha():
        within = before.isalpha() and after.isalpha()
        return _WRONG_PLACE if within and one not in "’‘–—·\xad" else 0.0  # noqa: RUF001
    if one in "ªºµ":
        return 0.0 if before.isalnum() or after.isalpha() else _WRONG_PLACE
    is_wrong = before.isdigit() or after.isdigit()
    is_wrong |= one.isupper() and before.islower()
    is_wrong |= one.isupper() and before.isupper() and after.islower()
    is_alone = (
        not before.isalpha() and not after.isalpha() and one not in "àéèóíåöøæáúâôÀÉÈÓÍÅÖØÆÁÚ"
    )
    return _WRONG_PLACE * (is_wrong + is_alone)
