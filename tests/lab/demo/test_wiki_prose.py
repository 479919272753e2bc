import pytest

from minifinetuning.lab.demo.wiki_prose import prose

pytest.importorskip("mwparserfromhell")

LONG = "The river rises in the northern hills, and runs for two hundred miles to the sea"


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("'''The river''' [[rise]]s", "The river rises"),
        ("The [[river (water)|river]]", "The river"),
        ("The river ([[IPA]]: {{IPA|x}})", "The river"),
        ("[[Image:a.jpg|thumb|A [[map]] of it.]] The river", "The river"),
        ("[[de:Fluss]][[Category:Rivers]]The river", "The river"),
        ("The river<ref>See a book.</ref>", "The river"),
        ("The river<!-- check this -->", "The river"),
        ("The&nbsp;river &mdash; long", "The river — long"),
        ("The river [http://example.org its page]", "The river its page"),
    ],
)
def test_markup_becomes_words(markup, text):
    tail = " runs from the northern hills through three counties and a lake to the sea at last."

    assert prose(markup + tail) == text + tail


@pytest.mark.parametrize(
    "markup",
    [
        f"== {LONG} ==",
        "* A short entry.",
        f"{LONG}:",
        f"{LONG.lower()}.",
        f"See also: {LONG}.",
        f"{{|\n| {LONG}.\n{{|\n| {LONG}.\n|}}\n|}}",
        f"{{{{Infobox|\n{LONG}.\n}}}}",
        f"{LONG} {{{{open.",
        f"== References ==\n{LONG}.",
        f"==See also==\n\n{LONG}.",
    ],
)
def test_what_is_no_prose_is_dropped(markup):
    assert prose(f"{LONG}.\n\n{markup}") == f"{LONG}."


def test_paragraphs_stand_apart_by_one_empty_line():
    assert prose(f"{LONG}.\n\n\n\n== Course ==\n{LONG}!\n") == f"{LONG}.\n\n{LONG}!"
