from minifinetuning.data import Document
from minifinetuning.data.repeated_lines import RepeatedLines, WithoutRepeatedLines

MENU = "Home\n  Products\nContact us\n---\n"


def pages(count):
    return [
        Document(f"{MENU}Page {number}\nsays {number}.\n", str(number)) for number in range(count)
    ]


def counted(documents):
    lines = RepeatedLines()
    for document in documents:
        lines.add(document.text)
    return lines


def test_lines_of_twenty_documents_are_repeated():
    assert not counted(pages(19)).documents_of
    lines = counted(pages(25))
    assert lines.documents_of == {"Home": 25, "Products": 25, "Contact us": 25}
    characters = sum(len(page.text) for page in pages(25))
    assert lines.share == 25 * len("HomeProductsContact us") / characters


def test_a_line_counts_once_a_document():
    documents = [Document("again\n" * 50, str(number)) for number in range(19)]
    assert not counted(documents).documents_of


def test_counts_are_exact_among_many_lines():
    documents = [
        Document("".join(f"line {number} of {n}\n" for n in range(200)) + f"on {number % 10}", "")
        for number in range(300)
    ]
    assert counted(documents).documents_of == {f"on {number}": 30 for number in range(10)}


def test_the_first_of_each_is_kept():
    documents = pages(25)
    kept = list(WithoutRepeatedLines(documents, counted(documents).documents_of))
    assert kept[0] == documents[0]
    assert kept[7].text == "---\nPage 7\nsays 7.\n"
    again = WithoutRepeatedLines(documents, ["Home"])
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
