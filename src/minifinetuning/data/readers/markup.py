"""The visible text of an HTML page, without its menus.

Resiliparse parses the page and lays out its text; what is here takes out of the tree what no reader
wants, and writes down what plain text cannot show.
"""

import re
from typing import Any

from minifinetuning.data.readers.formulas import write_formulas
from minifinetuning.data.readers.menus import menus
from minifinetuning.data.readers.page_tree import found, remove
from minifinetuning.data.readers.raised import write_raised

_HIDDEN = "[hidden], [aria-hidden=true], .sr-only, .visually-hidden, .screen-reader-text"
_HIDING_STYLE = re.compile(
    r"(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.IGNORECASE
)


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
        *found(document, _HIDDEN),
        *(node for node in found(document, "[style]") if _HIDING_STYLE.search(node["style"])),
    ]
    write_formulas(tree, hidden)
    remove(hidden)
    for node in found(document, "summary"):
        node.append_child(tree.create_element("br"))
    write_raised(tree)
    whole = _text(tree)
    title = " ".join((tree.title or "").split())
    heading = "" if document.query_selector("h1") or title in whole else title
    remove([*menus(tree)])
    text = _text(tree) or whole
    return "\n\n".join(part for part in (heading, text) if part)


def _text(tree: Any) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    text: str = extract_plain_text(tree, main_content=False, alt_texts=False)
    return text.strip("\n")
