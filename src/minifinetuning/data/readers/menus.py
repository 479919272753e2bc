"""Menus and tables of contents of an HTML page: lists of links that are no content of it."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from minifinetuning.data.readers.page_tree import found

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


def menus(tree: Any) -> Iterator[Any]:
    """The elements that lead through the site, not through the text.

    A list of links alone is one where it is called a menu, is in a header, repeats headings, or
    stands before them all, outside of what the page says is its content. Lists of references,
    glossaries and tables of links in the content are none.
    """
    yield from found(tree.document, _ALWAYS)
    is_under_heading = False
    headings = {_plain(heading) for heading in found(tree.document, _HEADINGS)}
    for node in found(tree.document, f"{_HEADINGS}, {_BLOCKS}"):
        if node.tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
            is_under_heading |= node.closest(f"body > header, {_ALWAYS}") is None
        elif _is_menu(node, is_under_heading, headings):
            yield node


def _is_menu(node: Any, is_under_heading: bool, headings: set[str]) -> bool:
    links = found(node, "a[href]")
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
    linked = sum(len(_plain(link)) for link in found(node, "a[href]"))
    return linked / max(len(_plain(node)), 1)


def _plain(node: Any) -> str:
    return "".join(node.text.split())
