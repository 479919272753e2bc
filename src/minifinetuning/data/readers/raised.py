"""Raised and lowered text of an HTML page, written in a line: 10<sup>3</sup> is 10^3."""

import re
from typing import Any

from minifinetuning.data.readers.formulas import bracketed
from minifinetuning.data.readers.page_tree import beside, found, replace

_ORDINALS = frozenset(["st", "nd", "rd", "th", "er", "re", "º", "ª", "tm", "®", "™"])
_OF_CHEMISTRY = re.compile(r"(?:^|[^A-Za-z])(?:[A-Z][a-z]?|\d|[)\]])*(?:[A-Z][a-z]?|[)\]])$")
"""The end of a formula as H2O, whose numbers stand beside the letters."""


def write_raised(tree: Any) -> None:
    """Say in the text what stands above and below the line, so that no number becomes another."""
    # The inner ones first, whose place is then written within that of the outer ones.
    for node in reversed(found(tree.document, "sup, sub")):
        text = " ".join(node.text.split())
        if not text or node.parent is None:
            continue
        before, after = beside(node, "prev"), beside(node, "next")
        numerator = _numerator(node, text)
        if numerator is not None:
            text = f"{numerator.text.strip()}/{text}"
            before = beside(numerator, "prev")
            text = " " * before[-1:].isdigit() + text
            node.parent.remove_child(node.prev)
            node.parent.remove_child(numerator)
        else:
            text = _written(node, text, before, after)
        # Where what follows would be read as more of it.
        has_base = before[-1:].isalnum() or before[-1:] in (")", "]")
        is_open = has_base and text[:1] in "^_" and text[-1:].isalnum() and len(text) > 1
        is_open |= numerator is not None
        replace(tree, node, text + " " * (is_open and after[:1].isalnum()))


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
