"""The text of a Markdown file: what its author meant for readers."""

import re

_FRONT_MATTER = re.compile(
    # Its first line names something, or there is none: a rule above a text is no front matter.
    r"\A(?:---\n(?:[\w\"'.-]+[ \t]*:.*\n(?:.*\n)*?)?(?:---|\.\.\.)|"
    r"\+\+\+\n(?:.*\n)*?\+\+\+)[ \t]*(?:\n|\Z)"
)
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_EMBEDDED = re.compile(
    # A picture within the text, of which a tokenizer would make thousands of tokens.
    r"!\[([^\]]*)\]\(\s*<?data:[^)]*\)|<img\b[^>]*\bsrc\s*=\s*[\"']?data:[^>]*>|"
    r"^ {0,3}\[[^\]]+\]:\s*<?data:\S*$",
    re.IGNORECASE | re.MULTILINE,
)


def markdown_text(content: str) -> str:
    """The text without front matter, HTML comments and pictures embedded as base64.

    What stands in a block of code is left as it is.
    """
    content = _FRONT_MATTER.sub("", content, count=1)
    return "".join(
        part if is_code else _EMBEDDED.sub(lambda found: found[1] or "", _COMMENT.sub("", part))
        for is_code, part in _parts(content)
    )


def _parts(content: str) -> list[tuple[bool, str]]:
    """The content in pieces, each with whether it is a block of code between fences."""
    parts: list[tuple[bool, str]] = []
    held: list[str] = []
    fence = ""
    commented = False
    for line in content.splitlines(keepends=True):
        opening = None if commented else _FENCE.match(line)
        if not fence and opening:
            parts.append((False, "".join(held)))
            held, fence = [line], opening[1]
        elif fence and opening and opening[1].startswith(fence) and not line.strip(" \n`~"):
            parts.append((True, "".join([*held, line])))
            held, fence = [], ""
        else:
            held.append(line)
            if not fence:
                commented = line.rfind("<!--") > line.rfind("-->") or (
                    commented and "-->" not in line
                )
    parts.append((bool(fence), "".join(held)))
    return parts
