"""Mails as text: a file of one, or a mailbox of many."""

import mailbox
import re
from collections.abc import Iterator
from contextlib import closing
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast

from minifinetuning.data.readers.columns import Texts
from minifinetuning.data.readers.encodings import guessed_encoding, known_encoding
from minifinetuning.data.readers.html import visible_text
from minifinetuning.data.readers.text_files import Note, UnreadableError, whole_bytes

_QUOTED_FROM = re.compile(rb"^>(>*From )", re.MULTILINE)
"""A line of a mailbox that would begin a new mail, as mailboxes write it."""


def mail_page(path: Path, note: Note) -> str:
    """The subject of a mail and what it says; as plain text where it says it twice.

    Raises UnreadableError where it is no mail.
    """
    content = whole_bytes(path)
    if not content.strip():
        return ""
    if b"\0" in content:
        raise UnreadableError("binary")
    message = _message(content)
    if not message.keys():
        raise UnreadableError("no mail: it has no headers")
    return _text(message)


def mailbox_table(path: Path, text_field: str | None, note: Note) -> Texts:
    """The text of each mail of an mbox file, one at a time; there is no field to choose.

    Raises UnreadableError where it holds something, but no mail.
    """

    def texts() -> Iterator[str]:
        with closing(mailbox.mbox(path, create=False)) as box:
            keys = [*box.iterkeys()]
            if not keys and path.stat().st_size:
                raise UnreadableError("no mailbox: no line of it begins with 'From '")
            for key in keys:
                yield _text(_message(_QUOTED_FROM.sub(rb"\1", box.get_bytes(key))))

    return texts


def _message(content: bytes) -> EmailMessage:
    return message_from_bytes(content, policy=policy.default)


def _text(message: EmailMessage) -> str:
    subject = str(message["subject"] or "")
    raw: Any = next((raw for name, raw in message.raw_items() if name.lower() == "subject"), "")
    if not str(raw).isascii():
        # Letters beyond ASCII in a header that says no encoding.
        subject = _decoded(str(raw).encode("utf-8", "surrogateescape"), None)
    return "\n\n".join(part for part in (subject, *_said(message)) if part.strip())


def _said(part: EmailMessage) -> list[str]:
    """What a part of a mail says, in its order; forwarded mails too, but no attachments."""
    kind = part.get_content_type()
    if kind == "message/rfc822":
        return [_text(forwarded) for forwarded in cast(list[EmailMessage], part.get_payload())]
    if part.is_attachment():
        return []
    if part.is_multipart():
        parts = cast(list[EmailMessage], [*part.iter_parts()])
        if kind != "multipart/alternative":
            return [text for one in parts for text in _said(one)]
        plain_first = sorted(parts, key=lambda one: one.get_content_type() != "text/plain")
        return next((said for one in plain_first if (said := _said(one))), [])
    if kind not in ("text/plain", "text/html"):
        return []
    content = cast(bytes | None, part.get_payload(decode=True)) or b""
    text = _decoded(content, part.get_content_charset()).replace("\r\n", "\n")
    text = (visible_text(text) if kind == "text/html" else text).strip()
    return [text] if text else []


def _decoded(content: bytes, charset: str | None) -> str:
    """The text in the encoding that the mail says, else in that which it looks like."""
    said = known_encoding(charset) if charset else None
    for encoding in (said, "utf-8"):
        try:
            return content.decode(encoding or "utf-8")
        except UnicodeDecodeError:
            continue
    guess = guessed_encoding(content)
    return content.decode("utf-8" if guess is None else guess.encoding, "replace")
