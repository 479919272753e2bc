"""The visible text of an HTML page, without its menus.

Resiliparse parses the page and lays out its text; what is here takes out of the tree what no reader
wants, and writes down what plain text cannot show.
"""

import re
from collections.abc import Iterable
from typing import Any

_HIDDEN = "[hidden], [aria-hidden=true], .sr-only, .visually-hidden, .screen-reader-text"
_HIDING_STYLE = re.compile(
    r"(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.IGNORECASE
)
_MENUS = (
    "nav, [role=navigation], [role=menu], [role=menubar], [role=search], [role=contentinfo], "
    "body > footer, .headerlink, .mw-editsection, .noprint"
)
_LISTS = "ul, ol, dl, table, p, div:not(:has(div, p, table))"
_MENU_LINKS = 5
"""As many links, and hardly anything else, make a list a menu or a table of contents."""
_MENU_SHARE = 0.8

_ORDINALS = frozenset(["st", "nd", "rd", "th", "er", "re", "º", "ª", "tm", "®", "™"])


def visible_text(page: str) -> str:
    """The text that a reader of the HTML page sees, without menus, hidden elements and footers.

    Rows of tables stay lines and their cells stand between tabs, preformatted text keeps its white
    space, 10<sup>3</sup> is 10^3. The title comes first where the page has no heading of its own.
    A page that holds menus alone is given whole.
    """
    from resiliparse.parse.html import HTMLTree

    tree: Any = HTMLTree.parse(page)
    document = tree.document
    _remove(_found(document, _HIDDEN))
    styled = _found(document, "[style]")
    _remove([node for node in styled if _HIDING_STYLE.search(node["style"])])
    for node in _found(document, "summary"):
        node.append_child(tree.create_element("br"))
    _write_positions(tree)
    whole = _text(tree)
    title = " ".join((tree.title or "").split())
    heading = "" if document.query_selector("h1") or title in whole else title
    _remove(_found(document, _MENUS))
    _remove([node for node in _found(document, _LISTS) if _is_menu(node)])
    text = _text(tree) or whole
    return "\n\n".join(part for part in (heading, text) if part)


def _text(tree: Any) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    text: str = extract_plain_text(tree, main_content=False, alt_texts=False)
    return text.strip("\n")


def _found(node: Any, selector: str) -> tuple[Any, ...]:
    # The slice is a tuple: to go through what is found one by one takes a time squared.
    nodes: tuple[Any, ...] = node.query_selector_all(selector)[:]
    return nodes


def _remove(nodes: Iterable[Any]) -> None:
    for node in nodes:
        if node.parent is not None and node.tag not in ("html", "body"):
            node.parent.remove_child(node)


def _is_menu(node: Any) -> bool:
    links = _found(node, "a[href]")
    if len(links) < _MENU_LINKS:
        return False
    linked = sum(_letters(link) for link in links)
    return linked >= _MENU_SHARE * _letters(node)


def _letters(node: Any) -> int:
    return len("".join(node.text.split()))


def _write_positions(tree: Any) -> None:
    """Say in the text what stands above, below or over what, so that no number becomes another."""
    document = tree.document
    for formula in _found(document, "math"):
        source = formula.query_selector("annotation[encoding='application/x-tex']")
        if source is not None:
            formula.parent.replace_child(tree.create_text_node(source.text), formula)
    for name, sign in (("msup", "^"), ("msub", "_"), ("mfrac", "/")):
        for node in _found(document, name):
            parts = [child for child in node.child_nodes[:] if child.type == 1]
            if len(parts) == 2:
                node.insert_before(tree.create_text_node(sign), parts[1])
    for node in _found(document, "sup, sub"):
        text = " ".join(node.text.split())
        if text and node.parent is not None:
            node.parent.replace_child(tree.create_text_node(_position(node, text)), node)


def _position(node: Any, text: str) -> str:
    """The raised or lowered text as it is written in a line."""
    if node.query_selector("a") is not None:
        # A mark of a footnote.
        return text if text.startswith("[") else f"[{text}]"
    before = node.prev.text[-1:] if node.prev is not None else ""
    if node.tag == "sub":
        return f"_{text}" if before.isdigit() else text
    if text.casefold() in _ORDINALS:
        return text
    return f"^{text}" if re.fullmatch(r"[-+\u2212]?\w+", text) else f"^({text})"
