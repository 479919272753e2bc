"""A formula of an HTML page in a line of text, so that no number becomes another.

TeX where the page has it, else MathML written out: sqrt(2) is √2, (a+b)/2 keeps its brackets.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

_DISPLAY = re.compile(r"\{\\(?:display|text)style\s+(.*)\}", re.DOTALL)
_SIMPLE = re.compile(r"[-+\u2212]?(?:\d+|[^\W\d]\w*|\W)|\([^()]*\)")
"""What needs no brackets as a power, an index or a part of a fraction."""
_DEEPEST = 100
"""Elements within each other, below which nobody writes a formula."""
_INVISIBLE = str.maketrans({"\u2061": " ", "\u2062": "", "\u2063": ",", "\u2064": ""})
"""Signs between factors, indices and so on that are not drawn."""


def formula_text(formula: Any) -> str:
    """The TeX of a `math` element, or else its MathML as a line."""
    source = formula.query_selector("annotation[encoding='application/x-tex']")
    tex = source.text if source is not None else formula.getattr("alttext") or ""
    return tex_text(tex) if tex.strip() else _line(formula, 0).strip()


def tex_text(source: str) -> str:
    """The TeX without the style that all of it is in."""
    whole = _DISPLAY.fullmatch(source.strip())
    return (whole[1] if whole else source).strip()


def bracketed(text: str) -> str:
    """The text as one operand: in brackets, unless it is a word or a number."""
    text = text.strip()
    return text if _SIMPLE.fullmatch(text) else f"({text})"


def _line(node: Any, depth: int) -> str:
    """A node of MathML as a line."""
    if node.type != 1 or depth > _DEEPEST:
        return " ".join(node.text.split()).translate(_INVISIBLE)
    if node.tag in ("annotation", "annotation-xml", "mphantom"):
        return ""
    if node.tag == "mspace":
        return " "
    children = node.child_nodes[:]
    lines = [_line(child, depth + 1) for child in children]
    tags = [child.tag if child.type == 1 else None for child in children]
    parts = [line for line, tag in zip(lines, tags, strict=True) if tag is not None]
    if parts and node.tag == "mmultiscripts":
        return _many_scripts(parts, [tag for tag in tags if tag is not None])
    if parts and node.tag in _WRITTEN:
        return _WRITTEN[node.tag](parts)
    return _joined(lines, tags)


def _joined(lines: Sequence[str], tags: Sequence[str | None]) -> str:
    """The parts one behind the other, none of which makes another number of the one before."""
    joined, was_written = "", False
    for line, tag in zip(lines, tags, strict=True):
        may_mix = joined[-1:].isalnum() and line[:1].isalnum()
        if may_mix and (was_written or line[0].isdigit()):
            joined += " "
        joined += line
        was_written = tag in _WRITTEN if line else was_written
    return joined


def _scripts(signs: str, parts: Sequence[str]) -> str:
    """A base with what is raised (^) and lowered (_) beside it."""
    base, *scripts = parts
    # An empty base is that of an isotope, 14 above the C that follows.
    written = bracketed(base) if base.strip() else ""
    for sign, script in zip(signs, scripts, strict=False):
        written += sign + bracketed(script) if script.strip() else ""
    return written


def _over(parts: Sequence[str]) -> str:
    # An accent is a sign; what else stands above is written as a limit is.
    base, above = parts[0], parts[-1].strip()
    is_accent = len(above) == 1 and not above.isalnum() and above != "∞"
    return bracketed(base) + above if is_accent else _scripts("^", parts)


def _fraction(parts: Sequence[str]) -> str:
    return "/".join(map(bracketed, parts[:2]))


def _root(parts: Sequence[str]) -> str:
    return f"{bracketed(parts[0])}^(1/{bracketed(parts[-1])})"


def _square_root(parts: Sequence[str]) -> str:
    return f"√{bracketed(_joined(parts, [None] * len(parts)))}"


def _many_scripts(parts: Sequence[str], tags: Sequence[str]) -> str:
    """Indices and powers of a letter, which may stand before it too."""
    behind = tags.index("mprescripts") if "mprescripts" in tags else len(parts)
    after = _pairs_of_scripts(parts[1:behind])
    before = _pairs_of_scripts(parts[behind + 1 :])
    return f"{before} {parts[0]}{after}" if before else parts[0] + after


def _pairs_of_scripts(parts: Sequence[str]) -> str:
    pairs = (parts[n : n + 2] for n in range(0, len(parts), 2))
    return "".join(_scripts("_^", ["", *pair]) for pair in pairs)


_WRITTEN: dict[str | None, Callable[[Sequence[str]], str]] = {
    "msup": partial(_scripts, "^"),
    "msub": partial(_scripts, "_"),
    "msubsup": partial(_scripts, "_^"),
    "munder": partial(_scripts, "_"),
    "munderover": partial(_scripts, "_^"),
    "mover": _over,
    "mfrac": _fraction,
    "mroot": _root,
    "msqrt": _square_root,
    "mtable": "; ".join,
    "mtr": ", ".join,
    "mlabeledtr": ", ".join,
    "mfenced": lambda parts: f"({', '.join(parts)})",
}
