import ast

import pytest

from minifinetuning.data import Document
from minifinetuning.data.repeated_lines import RepeatedLines, WithoutRepeatedLines, is_prose

LINES = ("Home of the example company", "All that we make and sell", "How to contact us by mail")
MENU = f"{LINES[0]}\n  {LINES[1]}\n{LINES[2]}\n---\n"


def pages(count):
    return [
        Document(f"{MENU}Page {number}\nsays {number}.\n", str(number)) for number in range(count)
    ]


def counted(documents):
    lines = RepeatedLines(documents)
    for _ in range(2):
        assert list(lines) == documents
    return lines


def test_lines_of_twenty_documents_are_repeated():
    assert not counted(pages(19)).documents_of
    lines = counted(pages(25))
    assert lines.documents_of == dict.fromkeys(LINES, 25)
    characters = sum(len(page.text) for page in pages(25))
    assert lines.share == 25 * len("".join(LINES)) / characters
    assert lines.example == LINES[0]
    assert not counted(pages(19)).example


def test_a_line_counts_once_a_document():
    documents = [Document(f"{LINES[0]}\n" * 50, str(number)) for number in range(19)]
    assert not counted(documents).documents_of


def own(number, line):
    return f"the line {line} of the document {number}\n"


def test_counts_are_exact_among_many_lines():
    documents = [
        Document(f"{''.join(own(number, n) for n in range(200))}{LINES[0]} {number % 10}", "")
        for number in range(300)
    ]
    assert counted(documents).documents_of == {f"{LINES[0]} {number}": 30 for number in range(10)}


def test_the_first_of_each_is_kept():
    documents = pages(25)
    kept = list(WithoutRepeatedLines(documents, counted(documents).documents_of))
    assert kept[0] == documents[0]
    assert kept[7].text == "---\nPage 7\nsays 7.\n"
    again = WithoutRepeatedLines(documents, [LINES[0]])
    assert list(again) == list(again)


def test_line_ends_are_left_as_they_are():
    documents = [Document("one\r\n\r\nmenu\r\n two\n", ""), Document("menu\r\n\n three \r\n", "")]
    kept = [document.text for document in WithoutRepeatedLines(documents, ["menu"])]
    assert kept == ["one\r\n\r\nmenu\r\n two\n", "\n three \r\n"]


def test_what_is_left_empty_or_equal_is_left_out_and_counted():
    texts = ["menu\none", "menu\ntwo", "menu\n\n", "menu\ntwo \n"]
    without = WithoutRepeatedLines([Document(text, "") for text in texts], ["menu"])
    for _ in range(2):
        assert [document.text for document in without] == ["menu\none", "two"]
        assert (without.empty, without.repeated) == (1, 1)


CODE = """import sys

def f(value=None):
    try:
        if value is None:
            raise NotImplementedError
    except (AttributeError, TypeError):
        pass
    else:
        for line in sys.stdin:
            print(line, file=sys.stderr)
    return value
# Copyright of all the people who wrote this file
"""


def test_the_lines_of_code_are_its_grammar():
    """By the ending of a file, and where there is none by what they say."""
    files = [Document(f"{CODE}name = {number}\n", f"src/{number}.py") for number in range(30)]
    rows = [Document(document.text, "code.jsonl", number) for number, document in enumerate(files)]
    assert not counted(files).documents_of
    assert list(counted(rows).documents_of) == ["# Copyright of all the people who wrote this file"]
    lines = [line.strip() for line in CODE.splitlines()]
    assert list(WithoutRepeatedLines(files, lines)) == files
    for document in WithoutRepeatedLines(rows, counted(rows).documents_of):
        ast.parse(document.text)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Legal notice and terms of use", True),
        ("Home | About | Contact us today", True),
        ("Don't reply to this e-mail.", True),
        ("गोपनीयता नीति और सेवा की शर्तें", True),
        ("版权所有 保留一切权利 不得转载", True),
        ("首页 关于", False),
        ("Home", False),
        ("Page 3 of 7, 2020-05-06", False),
        ("from __future__ import annotations", False),
        ("for i in range(10):", False),
        ("---", False),
    ],
)
def test_prose_is_what_says_something(line, expected):
    assert is_prose(line) == expected
