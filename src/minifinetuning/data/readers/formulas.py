"""Formulas of an HTML page in a line of text, so that no number becomes another.

TeX where the page has it, else MathML written out: sqrt(2) is √2, (a+b)/2 keeps its brackets.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from minifinetuning.data.readers.page_tree import found, replace

_DISPLAY = re.compile(r"\{\\(?:display|text)style\s+(.*)\}", re.DOTALL)
_IMAGES = "img.mwe-math-fallback-image-inline, img.mwe-math-fallback-image-display, img.tex"
_SIMPLE = re.compile(r"[-+\u2212]?(?:\d+|[^\W\d]\w*|\W)|\([^()]*\)")
"""What needs no brackets as a power, an index or a part of a fraction."""
_DEEPEST = 100
"""Elements within each other, below which nobody writes a formula."""
_INVISIBLE = {"\u2061": " ", "\u2062": "", "\u2063": ",", "\u2064": ""}
"""Signs between factors, indices and so on that are not drawn."""


def write_formulas(tree: Any, hidden: Sequence[Any]) -> None:
    """Put text in place of formulas, also in place of `hidden` elements that hold nothing else.

    There the page hides the formula from eyes alone, which see a picture of it.
    """
    for script in found(tree.document, "script[type^='math/tex']"):
        replace(tree, script, script.text)
    formulas = found(tree.document, "math")
    pictured = {
        image for image in found(tree.document, _IMAGES) if image.parent.query_selector("math")
    }
    shown = {formula: _formula(formula) for formula in formulas}
    for element in hidden:
        within = found(element, "math")
        is_pictured = element.parent is not None and element.parent.query_selector("img, svg")
        if len(within) == 1 and is_pictured and _letters(element) == _letters(within[0]):
            replace(tree, element, shown.pop(within[0], ""))
    for formula, text in shown.items():
        replace(tree, formula, text)
    for image in found(tree.document, _IMAGES):
        # Beside a formula it shows the same again.
        replace(tree, image, "" if image in pictured else _tex(image.getattr("alt") or ""))


def _letters(node: Any) -> str:
    return "".join(node.text.split())


def _formula(formula: Any) -> str:
    source = formula.query_selector("annotation[encoding='application/x-tex']")
    tex = source.text if source is not None else formula.getattr("alttext") or ""
    return _tex(tex) if tex.strip() else _line(formula).strip()


def _tex(source: str) -> str:
    whole = _DISPLAY.fullmatch(source.strip())
    return (whole[1] if whole else source).strip()


def _line(node: Any, depth: int = 0) -> str:
    """A node of MathML as a line."""
    if node.type != 1 or depth > _DEEPEST:
        text = " ".join(node.text.split())
        return "".join(_INVISIBLE.get(letter, letter) for letter in text)
    if node.tag in ("annotation", "annotation-xml", "mphantom"):
        return ""
    if node.tag == "mspace":
        return " "
    write = _WRITTEN.get(node.tag)
    parts = [child for child in node.child_nodes[:] if child.type == 1]
    if write is not None and parts:
        return write([_line(part, depth + 1) for part in parts])
    if node.tag == "mmultiscripts" and parts:
        return _many_scripts(parts, depth + 1)
    return _joined(node, depth + 1)


def _joined(node: Any, depth: int) -> str:
    """The children one behind the other, none of which makes another number of the one before."""
    line, was_written = "", False
    for child in node.child_nodes[:]:
        text = _line(child, depth)
        is_number = text[:1].isdigit() and line[-1:].isalnum()
        if is_number or (was_written and text[:1].isalnum() and line[-1:].isalnum()):
            line += " "
        line += text
        was_written = was_written if not text else child.type == 1 and child.tag in _WRITTEN
    return line


def bracketed(text: str) -> str:
    """The text as one operand: in brackets, unless it is a word or a number."""
    text = text.strip()
    return text if _SIMPLE.fullmatch(text) else f"({text})"


def _with_scripts(*signs: str) -> Callable[[list[str]], str]:
    def write(parts: list[str]) -> str:
        base, *scripts = parts
        # An empty base is that of an isotope, 14 above the C that follows.
        base = bracketed(base) if base.strip() else ""
        pairs = zip(signs, scripts, strict=False)
        return base + "".join(sign + bracketed(one) for sign, one in pairs if one.strip())

    return write


def _over(parts: list[str]) -> str:
    # An accent is a sign; what else stands above is written as a limit is.
    base, above = parts[0], parts[-1].strip()
    is_accent = len(above) == 1 and not above.isalnum() and above != "∞"
    return bracketed(base) + above if is_accent else _with_scripts("^")(parts)


def _fraction(parts: list[str]) -> str:
    return "/".join(map(bracketed, parts[:2]))


def _root(parts: list[str]) -> str:
    return f"{bracketed(parts[0])}^(1/{bracketed(parts[-1])})"


def _square_root(parts: list[str]) -> str:
    return f"√{bracketed(_spaced(parts))}"


def _spaced(parts: list[str]) -> str:
    line = ""
    for part in parts:
        line += " " * (line[-1:].isalnum() and part[:1].isdigit()) + part
    return line


def _many_scripts(parts: list[Any], depth: int) -> str:
    """Indices and powers of a letter, which may stand before it too."""
    lines = ["" if part.tag in ("none", "mprescripts") else _line(part, depth) for part in parts]
    behind = next((n for n, part in enumerate(parts) if part.tag == "mprescripts"), len(parts))
    write = _with_scripts("_", "^")
    after = "".join(write(["", *lines[n : n + 2]]) for n in range(1, behind, 2))
    before = "".join(write(["", *lines[n : n + 2]]) for n in range(behind + 1, len(parts), 2))
    return f"{before} {lines[0]}{after}" if before else lines[0] + after


_WRITTEN: dict[str, Callable[[list[str]], str]] = {
    **{"msup": _with_scripts("^"), "msub": _with_scripts("_"), "munder": _with_scripts("_")},
    **dict.fromkeys(("msubsup", "munderover"), _with_scripts("_", "^")),
    **{"mover": _over, "mfrac": _fraction, "mroot": _root, "msqrt": _square_root},
    **{"mtable": "; ".join, "mtr": ", ".join, "mlabeledtr": ", ".join},
    "mfenced": lambda parts: f"({', '.join(parts)})",
}
