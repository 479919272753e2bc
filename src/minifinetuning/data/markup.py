"""The visible text of an HTML page."""

import re
from html.parser import HTMLParser

_INVISIBLE = frozenset({"script", "style", "template", "noscript", "head"})
_METADATA = frozenset({"title", "meta", "link", "base", "script", "style", "template", "noscript"})
_BLOCKS = re.compile(
    "address|article|aside|blockquote|body|br|caption|dd|details|dialog|div|dl|dt|fieldset|"
    "figcaption|figure|footer|form|h[1-6]|head|header|hr|html|legend|li|main|nav|ol|option|p|pre|"
    "section|summary|table|tbody|td|tfoot|th|thead|title|tr|ul"
)


def visible_text(page: str) -> str:
    """The text that a reader of the HTML page sees, its title first, one line per block.

    Script, style and the rest of the head are dropped, entities are decoded, and white space is
    collapsed as a browser does it (kept in `<pre>`).
    """
    parser = _VisibleText()
    parser.feed(page)
    parser.close()
    lines = "".join(parser.pieces).split("\n")
    return "\n".join(line.rstrip(" ") for line in lines).strip("\n")


class _VisibleText(HTMLParser):
    """Collects visible text in `pieces`."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._invisible: set[str] = set()
        self._in_title = False
        self._preformatted = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _METADATA:
            # The head's end tag may be left out: anything but metadata begins the body.
            self._invisible.discard("head")
        if tag in _INVISIBLE:
            self._invisible.add(tag)
        self._in_title |= tag == "title"
        self._preformatted += tag == "pre"
        self._break_line(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # `<script/>` opens nothing that an end tag would close.
        self._break_line(tag)

    def handle_endtag(self, tag: str) -> None:
        self._invisible.discard(tag)
        self._in_title &= tag != "title"
        self._preformatted = max(0, self._preformatted - (tag == "pre"))
        self._break_line(tag)

    def handle_data(self, data: str) -> None:
        if self._invisible and not self._in_title:
            return
        if not self._preformatted:
            data = re.sub(r"[ \t\n\r\f]+", " ", data)
            if not self.pieces or self.pieces[-1][-1] in " \n":
                data = data.removeprefix(" ")
        if data:
            self.pieces.append(data)

    def _break_line(self, tag: str) -> None:
        if _BLOCKS.fullmatch(tag) and self.pieces and self.pieces[-1][-1] != "\n":
            self.pieces.append("\n")
