"""What is said in a file of subtitles."""

import re

_TIMES = re.compile(r"(?:\d+:)?\d\d:\d\d[,.]\d{1,3}[ \t]+-->[ \t]+.*")


def spoken_text(content: str) -> str:
    """The lines of SubRip subtitles without their numbers, times and tags of style."""
    said = []
    lines = content.split("\n")
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        is_number = line.strip().isdecimal() and _TIMES.match(after)
        if line.strip() and not is_number and not _TIMES.match(line):
            said.append(re.sub(r"</?[ibuc](?:[ .][^>]*)?>|</?font[^>]*>|\{\\[^}]*\}", "", line))
    return "\n".join(said)
