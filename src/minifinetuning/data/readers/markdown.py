"""Markdown and notebooks to what their authors meant for readers."""

import re
from collections.abc import Iterator
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

from minifinetuning.data.readers.tables import json_value
from minifinetuning.data.readers.text_files import Note, UnreadableError, text_page
from minifinetuning.files import printable

_FRONT_MATTER = re.compile(
    # Its first line names something, or there is none: a rule above a text is no front matter.
    r"\A(?:---\n(?:[\w\"'.-]+[ \t]*:.*\n(?:.*\n)*?)?(?:---|\.\.\.)|"
    r"\+\+\+\n(?:.*\n)*?\+\+\+)[ \t]*(?:\n|\Z)"
)
_COMMENT = re.compile(r"(?<!\\)<!--(?:-?>|.*?-->)", re.DOTALL)
_EMBEDDED = re.compile(
    # A picture within the text, of which a tokenizer would make thousands of tokens.
    r"!\[([^\]]*)\]\(\s*<?data:[^)]*\)|<img\b[^>]*\bsrc\s*=\s*[\"']?data:[^>]*>|"
    r"^ {0,3}\[[^\]]+\]:\s*<?data:\S*$",
    re.IGNORECASE | re.MULTILINE,
)
_CODE_SPAN = re.compile(r"(?<![\\`])(`+)(?!`)(?:.*?[^`])\1(?!`)", re.DOTALL)


def markdown_page(path: Path, note: Note) -> str:
    """The text of a Markdown file, as `markdown_text`."""
    return markdown_text(text_page(path, note))


def notebook_page(path: Path, note: Note) -> str:
    """The cells of a Jupyter notebook in their order, a blank line between them; no output.

    Raises UnreadableError where it is no notebook, InputError where it is no JSON.
    """
    notebook = json_value(text_page(path, note), printable(path))
    # Before version 4 the cells were those of worksheets.
    try:
        sheets = notebook.get("worksheets", [notebook])
        cells = [cell for sheet in sheets for cell in sheet["cells"]]
        texts = [_cell_text(cell) for cell in cells]
    except (KeyError, TypeError, AttributeError):
        raise UnreadableError("no notebook: it holds no cells") from None
    return "\n\n".join(text for text in texts if text.strip())


def _cell_text(cell: dict[str, object]) -> str:
    source = cell.get("source", cell.get("input", ""))
    lines = source if isinstance(source, list) else [source]
    text = "".join(str(line) for line in lines)
    return markdown_text(text) if cell.get("cell_type") == "markdown" else text


def markdown_text(content: str) -> str:
    """The text without front matter, HTML comments and pictures embedded as base64.

    Code stays as it is, in blocks and within lines, and so does a comment that nothing closes.
    """
    content = _FRONT_MATTER.sub("", content, count=1)
    if "<!--" not in content and "data:" not in content.casefold():
        return content
    # As the parser counts them: a form feed ends none.
    lines = [*StringIO(content, newline="")]
    shown = []
    for kind, start, end in _parts(content, len(lines)):
        text = "".join(lines[start:end])
        shown.append(text if kind == "code" else _shown(text, may_hold_code=kind == "inline"))
    return "".join(shown)


def _parts(content: str, line_count: int) -> Iterator[tuple[str, int, int]]:
    """The lines in pieces: blocks of code, text in which there may be code, and others."""
    reached = 0
    for token in _parser().parse(content):
        if token.type not in ("fence", "code_block", "inline") or token.map is None:
            continue
        start, end = token.map
        if reached < start:
            yield "other", reached, start
        if reached < end:
            yield "inline" if token.type == "inline" else "code", max(start, reached), end
        reached = max(reached, end)
    yield "other", reached, line_count


@cache
def _parser() -> Any:
    from markdown_it import MarkdownIt

    # Blocks alone, of which it says the lines: what stands within them is not parsed.
    parser = MarkdownIt("commonmark")
    parser.core.ruler.enableOnly(["normalize", "block"])
    return parser


def _shown(text: str, may_hold_code: bool) -> str:
    """The text without comments and embedded pictures, outside of code within its lines."""
    parts, reached = [], 0
    for found in _spans(text, may_hold_code):
        parts.append(_EMBEDDED.sub(r"\1", text[reached : found.start()]))
        if found.re is _CODE_SPAN:
            parts.append(found[0])
        reached = found.end()
    return "".join([*parts, _EMBEDDED.sub(r"\1", text[reached:])])


def _spans(text: str, may_hold_code: bool) -> Iterator[re.Match[str]]:
    """Code within the lines, and comments: whichever begins first holds the others."""
    # None closes behind it, so that those that nothing closes are not looked at one by one.
    last = text.rfind("-->") + 3
    code = _CODE_SPAN.search(text) if may_hold_code else None
    comment = _COMMENT.search(text, 0, last)
    while found := min((one for one in (code, comment) if one), key=re.Match.start, default=None):
        yield found
        reached = found.end()
        if code and code.start() < reached:
            code = _CODE_SPAN.search(text, reached)
        if comment and comment.start() < reached:
            comment = _COMMENT.search(text, reached, last)
