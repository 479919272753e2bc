"""Mails as text: a file of one, or a mailbox of many."""

import mailbox
from collections.abc import Iterator
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

from minifinetuning.data.readers.markup import visible_text
from minifinetuning.data.readers.text_files import whole_bytes


def mail_text(path: Path) -> str:
    """The subject of a mail and what it says; as plain text where it says it twice."""
    return _text(whole_bytes(path))


def mailbox_texts(path: Path) -> Iterator[str]:
    """The text of each mail of an mbox file, one at a time."""
    box = mailbox.mbox(path, create=False)
    try:
        for key in box.iterkeys():
            yield _text(box.get_bytes(key))
    finally:
        box.close()


def _text(content: bytes) -> str:
    message = message_from_bytes(content, policy=policy.default)
    body = message.get_body(("plain", "html"))
    said = ""
    if body is not None:
        try:
            said = body.get_content()
        except (LookupError, KeyError):
            # In an encoding that nobody knows.
            payload: Any = body.get_payload(decode=True)
            said = payload.decode("utf-8", "replace")
        if body.get_content_subtype() == "html":
            said = visible_text(said)
    return "\n\n".join(part for part in (str(message["subject"] or ""), said.strip()) if part)
