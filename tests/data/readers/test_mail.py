import mailbox
from email.message import EmailMessage

import pytest

from minifinetuning.data import DocumentStream
from minifinetuning.errors import InputError


def texts(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [document.text for document in DocumentStream([str(path)])]


def mail(subject, plain=None, html=None):
    message = EmailMessage()
    message["Subject"], message["From"], message["X-Secret"] = subject, "a@b.c", "no"
    if plain is not None:
        message.set_content(plain)
    if html is not None:
        (message.add_alternative if plain else message.set_content)(html, subtype="html")
    return message


def test_a_mail_is_its_subject_and_body(tmp_path):
    both = mail("Grüße", "Guten Tag, Müller", "<p>no</p>")
    assert texts(tmp_path / "a.eml", bytes(both)) == ["Grüße\n\nGuten Tag, Müller"]
    html = mail("Hi", html="<p>10<sup>3</sup></p>")
    assert texts(tmp_path / "b.eml", bytes(html)) == ["Hi\n\n10^3"]
    foreign = b"Subject: x\nContent-Type: text/plain; charset=klingon\n\ncaf\xe9\n"
    assert texts(tmp_path / "c.eml", foreign) == ["x\n\ncafé"]


def test_a_mailbox_holds_a_document_a_mail(tmp_path):
    box = mailbox.mbox(tmp_path / "a.mbox")
    for number in range(3):
        box.add(mail(f"Mail {number}", "body\n"))
    box.close()
    items = [*DocumentStream([str(tmp_path / "a.mbox")])]
    assert [item.text for item in items] == [f"Mail {n}\n\nbody" for n in range(3)]
    assert items[2].source == f"{tmp_path / 'a.mbox'}:3"


def test_a_mail_in_8_bits_without_a_charset_is_guessed(tmp_path):
    german = "Subject: Grüße\n\nDas Flüßchen fließt gemächlich.\n".encode("cp1252")
    assert texts(tmp_path / "a.eml", german) == ["Grüße\n\nDas Flüßchen fließt gemächlich."]
    latin = b"Subject: x\nContent-Type: text/plain; charset=iso-8859-1\n\n\x93so\x94\n"
    assert texts(tmp_path / "b.eml", latin) == ["x\n\n“so”"]


def test_all_parts_of_a_mail_are_read_and_no_attachment(tmp_path):
    inner = mail("Forwarded", "Its body.")
    outer = mail("Subject", "First part.", "<p>no</p>")
    outer.make_mixed()
    second = EmailMessage()
    second.set_content("Second part.")
    outer.attach(second)
    outer.add_attachment("no", filename="a.txt")
    outer.add_attachment(inner)
    assert texts(tmp_path / "a.eml", bytes(outer)) == [
        "Subject\n\nFirst part.\n\nSecond part.\n\nForwarded\n\nIts body."
    ]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.eml", bytes(range(256)) * 9, "binary"),
        ("a.eml", b"Just text\nwithout headers.\n", "no mail: it has no headers"),
        ("a.mbox", b"no mails\n", "no mailbox: no line of it begins with 'From '"),
    ],
)
def test_what_is_no_mail_is_named(name, content, reason, tmp_path):
    with pytest.raises(InputError, match=rf"{name} \({reason}\)"):
        texts(tmp_path / name, content)


def test_a_mailbox_marks_lines_as_those_that_begin_a_mail(tmp_path):
    content = "From a@b.c Thu Jan  1 00:00:00 1970\nSubject: x\n\n>From here\n>>From\n>>From x\n"
    assert texts(tmp_path / "a.mbox", content) == ["x\n\nFrom here\n>>From\n>From x"]
