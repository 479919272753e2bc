"""The prose of a Wikipedia article: what is left of its mark-up once all but the sentences is gone.

This text measures perplexity, so a line that is no whole sentence, or that still shows mark-up, is
dropped.
"""

import re

__all__ = ["prose"]

SHORTEST_PARAGRAPH = 80  # characters: what is shorter is a heading, a caption or a list's entry

_TAIL = re.compile(
    r"^=+\s*(?:see also|references|external links?|further reading|bibliography|sources|notes"
    r"|footnotes|literature|related (?:topics|articles)|discography|filmography)\b.*",
    re.I | re.M | re.S,
)
_UNSEEN_ELEMENT = re.compile(
    r"<(ref|gallery|timeline|table|pre|code)\b[^>/]*>.*?</\1\s*>", re.I | re.S
)
_INNERMOST_TABLE = re.compile(r"\{\|(?:(?!\{\|).)*?\|\}", re.S)
_NAMESPACE_LINK = re.compile(r"\[\[\s*[A-Za-z-]+:(?:[^\[\]]|\[\[[^\[\]]*\]\]|\[[^\[\]]*\])*\]\]")
_EMPTY_BRACKETS = re.compile(r"\s*\((?:IPA|pronounced|[\s,;:])*\)")
_SENTENCE_END = re.compile(r"[.!?][\"')\u201d\u2019]*$")
_NOT_PROSE = re.compile(r"[\[\]{}|<>=]|https?:|^(?:see|see also|main articles?)\b", re.I)


def prose(markup: str) -> str:
    """The paragraphs of an article's wiki mark-up, an empty line between two.

    Tables, images, notes, headings, lists of short entries and the closing sections are dropped.
    """
    import mwparserfromhell

    markup = _UNSEEN_ELEMENT.sub("", _TAIL.sub("", markup))
    tables = 1
    while tables:
        markup, tables = _INNERMOST_TABLE.subn("", markup)
    code = mwparserfromhell.parse(_NAMESPACE_LINK.sub("", markup))
    text = _EMPTY_BRACKETS.sub("", code.strip_code(normalize=True, collapse=True))
    lines = (_tidy(line) for line in text.split("\n"))
    return "\n\n".join(line for line in lines if _reads_as_prose(line))


def _tidy(line: str) -> str:
    words = " ".join(line.replace("''", "").split()).lstrip("*:;# ")
    return re.sub(r" ([,;.](?=\s|$))", r"\1", words).replace("( ", "(").replace(" )", ")")


def _reads_as_prose(line: str) -> bool:
    return (
        len(line) >= SHORTEST_PARAGRAPH
        and not line[0].islower()
        and _SENTENCE_END.search(line) is not None
        and _NOT_PROSE.search(line) is None
    )
