"""HTML pages to the text that a reader sees: without menus and what is hidden, and with formulas.

Resiliparse parses the page and lays out its text; what is here takes out of the tree what no reader
wants, and writes down what plain text cannot show.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from minifinetuning.data.readers.html_formulas import bracketed, formula_text, tex_text
from minifinetuning.data.readers.text_files import Note, text_page

_HIDDEN = "[hidden], [aria-hidden=true], .sr-only, .visually-hidden, .screen-reader-text"
_HIDING_STYLE = re.compile(
    r"(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.IGNORECASE
)
_INLINE = frozenset(["a", "b", "i", "em", "strong", "span", "font", "small", "var", "code"])
_IMAGES = "img.mwe-math-fallback-image-inline, img.mwe-math-fallback-image-display, img.tex"
"""Pictures of formulas."""
_ORDINALS = frozenset(["st", "nd", "rd", "th", "er", "re", "º", "ª", "tm", "®", "™"])
_OF_CHEMISTRY = re.compile(r"(?:^|[^A-Za-z])(?:[A-Z][a-z]?|\d|[)\]])*(?:[A-Z][a-z]?|[)\]])$")
"""The end of a formula as H2O, whose numbers stand beside the letters."""

_ALWAYS = (
    "nav, [role=navigation], [role=menu], [role=menubar], [role=search], [role=contentinfo], "
    "body > footer, .headerlink, .mw-editsection, .noprint"
)
_HEADINGS = "h1, h2, h3, h4, h5, h6"
_LISTS = ("ul", "ol", "dl", "table")
_BLOCKS = f"{', '.join(_LISTS)}, p, div:not(:has(div, p, table))"
_CONTENT = "main, article, [role=main]"
_NAMES = re.compile(
    r"(?<![a-z])(?:menu|nav|toc|breadcrumbs?|pagination|pager|contents|related|footer)|"
    r"sidebar|(?:Menu|Nav|Toc)(?![a-z])|navbar|tableofcontents",
)

_FEWEST_LINKS = 5
"""As many links, and hardly anything else, may be a menu or a table of contents."""
_LINKED = 0.8
_NAMED_LINKED = 0.5
"""The share of letters in links: of what has no name of a menu, and of what has one."""
_DEEPEST = 20
"""Elements around a list that are looked at for a name."""
_WORDS = 5
"""The most words of a link of a menu, on average."""


def html_page(path: Path, note: Note) -> str:
    """The text of an HTML file, as `visible_text`, in the encoding that the page says."""
    return visible_text(text_page(path, note, may_declare=True))


def visible_text(page: str) -> str:
    """The text that a reader of the HTML page sees, without menus, hidden elements and footers.

    Rows of tables stay lines and their cells stand between tabs, preformatted text keeps its white
    space, 10<sup>3</sup> is 10^3. The title comes first where the page has no heading of its own.
    A page that holds menus alone is given whole.
    """
    from resiliparse.parse.html import HTMLTree

    tree: Any = HTMLTree.parse(page)
    document = tree.document
    hidden = [
        *_elements(document, _HIDDEN),
        *(node for node in _elements(document, "[style]") if _HIDING_STYLE.search(node["style"])),
    ]
    _write_formulas(tree, hidden)
    _remove(hidden)
    for node in _elements(document, "summary"):
        node.append_child(tree.create_element("br"))
    _write_raised(tree)
    whole = _text(tree)
    title = " ".join((tree.title or "").split())
    heading = "" if document.query_selector("h1") or title in whole else title
    _remove([*_menus(tree)])
    text = _text(tree) or whole
    return "\n\n".join(part for part in (heading, text) if part)


def _text(tree: Any) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    text: str = extract_plain_text(tree, main_content=False, alt_texts=False)
    return text.strip("\n")


def _write_formulas(tree: Any, hidden: Sequence[Any]) -> None:
    """Put text in place of formulas, also in place of `hidden` elements that hold nothing else.

    There the page hides the formula from eyes alone, which see a picture of it.
    """
    for script in _elements(tree.document, "script[type^='math/tex']"):
        _replace(tree, script, script.text)
    images = _elements(tree.document, _IMAGES)
    pictured = {image for image in images if image.parent.query_selector("math")}
    shown = {formula: formula_text(formula) for formula in _elements(tree.document, "math")}
    for element in hidden:
        within = _elements(element, "math")
        is_pictured = element.parent is not None and element.parent.query_selector("img, svg")
        if len(within) == 1 and is_pictured and _plain(element) == _plain(within[0]):
            _replace(tree, element, shown.pop(within[0], ""))
    for formula, text in shown.items():
        _replace(tree, formula, text)
    for image in _elements(tree.document, _IMAGES):
        # Beside a formula it shows the same again.
        _replace(tree, image, "" if image in pictured else tex_text(image.getattr("alt") or ""))


def _write_raised(tree: Any) -> None:
    """Say in the text what stands above and below the line, so that no number becomes another."""
    # The inner ones first, whose place is then written within that of the outer ones.
    for node in reversed(_elements(tree.document, "sup, sub")):
        text = " ".join(node.text.split())
        if not text or node.parent is None:
            continue
        before, after = _beside(node, "prev"), _beside(node, "next")
        numerator = _numerator(node, text)
        if numerator is None:
            text = _written(node, text, before, after)
            has_base = before[-1:].isalnum() or before[-1:] in (")", "]")
            is_open = has_base and text[:1] in "^_" and text[-1:].isalnum() and len(text) > 1
        else:
            text = f"{numerator.text.strip()}/{text}"
            is_open = True
            node.parent.remove_child(node.prev)
            node.parent.remove_child(numerator)
        # Where what follows would be read as more of it.
        _replace(tree, node, f"{text} " if is_open and after[:1].isalnum() else text)


def _written(node: Any, text: str, before: str, after: str) -> str:
    if node.query_selector("a") is not None:
        # A mark of a footnote.
        return text if text.startswith("[") else f"[{text}]"
    if node.tag == "sup":
        return text if text.casefold() in _ORDINALS else f"^{bracketed(text)}"
    is_chemistry = text.isdigit() and _OF_CHEMISTRY.search(before) and not after[:1].isdigit()
    return text if is_chemistry else f"_{bracketed(text)}"


def _numerator(node: Any, text: str) -> Any:
    """The raised number of a fraction as <sup>1</sup>/<sub>2</sub>, whose lowered one is `node`."""
    if node.tag != "sub" or not text.isdigit() or node.prev is None:
        return None
    raised = node.prev.prev
    is_fraction = node.prev.text.strip() in ("/", "\u2044") and raised is not None
    return raised if is_fraction and raised.tag == "sup" and raised.text.strip().isdigit() else None


def _menus(tree: Any) -> Iterator[Any]:
    """The elements that lead through the site, not through the text.

    A list of links alone is one where it is called a menu, is in a header, repeats headings, or
    stands before them all, outside of what the page says is its content. Lists of references,
    glossaries and tables of links in the content are none.
    """
    yield from _elements(tree.document, _ALWAYS)
    is_under_heading = False
    headings = {_plain(heading) for heading in _elements(tree.document, _HEADINGS)}
    for node in _elements(tree.document, f"{_HEADINGS}, {_BLOCKS}"):
        if node.tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
            is_under_heading |= node.closest(f"body > header, {_ALWAYS}") is None
        elif _is_menu(node, is_under_heading, headings):
            yield node


def _is_menu(node: Any, is_under_heading: bool, headings: set[str]) -> bool:
    links = _elements(node, "a[href]")
    if len(links) < _FEWEST_LINKS or _linked(node) < _LINKED:
        return False
    if node.closest("header") is not None or _is_named(node):
        return True
    beside = _unlinked(node, links)
    repeated = sum(_plain(link) in headings for link in links)
    if repeated > _LINKED * len(links) and not re.search(r"[^\W\d_]", beside):
        return True
    if node.closest(_CONTENT) is not None:
        return False
    if node.tag not in _LISTS:
        # Links with signs between them; commas and words make a sentence of them.
        return not re.search(r"[\w,;.]", beside)
    is_short = sum(len(link.text.split()) for link in links) <= _WORDS * len(links)
    return is_short and not is_under_heading


def _is_named(node: Any) -> bool:
    """Whether it, or what it is the most of, has the name of a menu."""
    for _ in range(_DEEPEST):
        if node is None or node.tag in ("html", "body", "main", "article", None):
            break
        names = f"{node.class_name or ''} {node.id or ''}"
        if _NAMES.search(names) and _linked(node) >= _NAMED_LINKED:
            return True
        node = node.parent
    return False


def _unlinked(node: Any, links: Sequence[Any]) -> str:
    """What stands beside the links."""
    text = _plain(node)
    # The longest first, of which others may be a part.
    for link in sorted(map(_plain, links), key=len, reverse=True):
        text = text.replace(link, "", 1)
    return text


def _linked(node: Any) -> float:
    """The share of its letters that stand in links."""
    linked = sum(len(_plain(link)) for link in _elements(node, "a[href]"))
    return linked / max(len(_plain(node)), 1)


def _plain(node: Any) -> str:
    return "".join(node.text.split())


def _elements(node: Any, selector: str) -> tuple[Any, ...]:
    """The elements within the node, in their order."""
    # The slice is a tuple: to go through what is found one by one takes a time squared.
    nodes: tuple[Any, ...] = node.query_selector_all(selector)[:]
    return nodes


def _remove(nodes: Iterable[Any]) -> None:
    """Take the elements out of the page."""
    for node in nodes:
        if node.parent is not None and node.tag not in ("html", "body"):
            node.parent.remove_child(node)


def _replace(tree: Any, node: Any, text: str) -> None:
    """Put text in place of the element; a space keeps its numbers apart from those beside it."""
    if node.parent is None:
        return
    if text[:1].isdigit() and _beside(node, "prev")[-1:].isdigit():
        text = " " + text
    if text[-1:].isdigit() and _beside(node, "next")[:1].isdigit():
        text += " "
    node.parent.replace_child(tree.create_text_node(text), node)


def _beside(node: Any, side: str) -> str:
    """The text directly before (`prev`) or behind (`next`) the node, also where it is in bold."""
    while getattr(node, side) is None and node.parent is not None and node.parent.tag in _INLINE:
        node = node.parent
    other = getattr(node, side)
    return "" if other is None else other.text
