"""The text of a Markdown file: what its author meant for readers."""

import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

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


def markdown_text(content: str) -> str:
    """The text without front matter, HTML comments and pictures embedded as base64.

    Code stays as it is, in blocks and within lines, and so does a comment that nothing closes.
    """
    content = _FRONT_MATTER.sub("", content, count=1)
    if "<!--" not in content and "data:" not in content.casefold():
        return content
    lines = content.splitlines(keepends=True)
    return "".join(
        text if kind == "code" else _shown(text, may_hold_code=kind == "inline")
        for kind, text in (
            (kind, "".join(lines[start:end])) for kind, start, end in _parts(content, len(lines))
        )
    )


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
def _parser() -> "MarkdownIt":
    from markdown_it import MarkdownIt

    # Blocks alone, of which it says the lines: what stands within them is not parsed.
    parser = MarkdownIt("commonmark")
    parser.core.ruler.enableOnly(["normalize", "block"])
    return parser


def _shown(text: str, may_hold_code: bool) -> str:
    """The text without comments and embedded pictures, outside of code within its lines."""
    if not may_hold_code:
        last = text.rfind("-->") + 3 if "-->" in text else 0
        text = _COMMENT.sub("", text[:last]) + text[last:]
        return _EMBEDDED.sub(lambda found: found[1] or "", text)
    parts, reached = [], 0
    for found in _spans(text):
        is_code = found.re is _CODE_SPAN
        parts += [text[reached : found.start()], found[0] if is_code else ""]
        reached = found.end()
    parts.append(text[reached:])
    return "".join(
        part if number % 2 else _EMBEDDED.sub(lambda found: found[1] or "", part)
        for number, part in enumerate(parts)
    )


def _spans(text: str) -> Iterator[re.Match[str]]:
    """Code within the lines, and comments: whichever begins first holds the others."""
    # None closes behind it, so that those that nothing closes are not looked at one by one.
    last = text.rfind("-->") + 3
    code, comment = _CODE_SPAN.search(text), _COMMENT.search(text, 0, last)
    while found := min((one for one in (code, comment) if one), key=re.Match.start, default=None):
        yield found
        reached = found.end()
        if code and code.start() < reached:
            code = _CODE_SPAN.search(text, reached)
        if comment and comment.start() < reached:
            comment = _COMMENT.search(text, reached, last) if reached < last else None
