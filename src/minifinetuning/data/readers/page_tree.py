"""The tree of an HTML page, as Resiliparse has it: to find elements in it and to replace them."""

from collections.abc import Iterable
from typing import Any

_INLINE = frozenset(["a", "b", "i", "em", "strong", "span", "font", "small", "var", "code"])


def found(node: Any, selector: str) -> tuple[Any, ...]:
    """The elements within the node, in their order."""
    # The slice is a tuple: to go through what is found one by one takes a time squared.
    nodes: tuple[Any, ...] = node.query_selector_all(selector)[:]
    return nodes


def remove(nodes: Iterable[Any]) -> None:
    """Take the elements out of the page."""
    for node in nodes:
        if node.parent is not None and node.tag not in ("html", "body"):
            node.parent.remove_child(node)


def replace(tree: Any, node: Any, text: str) -> None:
    """Put text in place of the element; a space keeps its numbers apart from those beside it."""
    if node.parent is None:
        return
    if text[:1].isdigit() and beside(node, "prev")[-1:].isdigit():
        text = " " + text
    if text[-1:].isdigit() and beside(node, "next")[:1].isdigit():
        text += " "
    node.parent.replace_child(tree.create_text_node(text), node)


def beside(node: Any, side: str) -> str:
    """The text directly before (`prev`) or behind (`next`) the node, also where it is in bold."""
    while getattr(node, side) is None and node.parent is not None and node.parent.tag in _INLINE:
        node = node.parent
    other = getattr(node, side)
    return "" if other is None else other.text
