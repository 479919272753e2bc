import re
from html.parser import HTMLParser

import pytest

from minifinetuning.errors import InputError
from minifinetuning.report import comparison_page, recommendation

HOSTILE = "</script><img src=x onerror=alert(1)> & \"'{{ 7 * 7 }}"


class Page(HTMLParser):
    """The elements of a page in order, and by tag the text that follows each opening."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, list[str]] = {}
        self.feed(text)
        self.texts = {tag: [text.strip() for text in texts] for tag, texts in self.raw.items()}

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.raw.setdefault(tag, []).append("")

    def handle_data(self, data):
        if self.elements:
            self.raw[self.elements[-1][0]][-1] += data

    def told(self) -> dict[str | None, list[str]]:
        """What the marks of the first chart say, by line; the star of each is the last."""
        found: dict[str | None, list[str]] = {}
        for _, attributes in self.first_chart():
            if "data-line" in attributes:
                line = attributes["data-line"]
            if "data-told" in attributes:
                found.setdefault(line, []).append(attributes["data-told"])
        return found

    def first_chart(self) -> list[tuple[str, dict[str, str | None]]]:
        start, end = (
            next(i for i, element in enumerate(self.elements) if found(*element))
            for found in (
                lambda tag, attributes: tag == "svg" and "role" in attributes,
                lambda tag, _: tag == "figcaption",
            )
        )
        return self.elements[start:end]


@pytest.fixture
def results(trial):
    return {
        "ft": trial("ft", (0, 0), (6, 1), (10, 4)),
        "mft slow": trial("mft", (0, 0), (5, 0.2), learning_rate=3e-5),
        "mft": trial("mft", (0, 0), (4, 0.1), (8, 0.5)),
    }


def test_nothing_is_asked_of_any_network(results):
    text = comparison_page(results, budget=1, title="a title")

    for tag, attributes in Page(text).elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form", "a")
        assert not attributes.keys() & {"src", "srcset", "action", "data", "poster"}
        assert attributes.get("href", "#").startswith("#")  # a shape of the page itself
    assert "http" not in text.replace("http-equiv", "")
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|\bimport\b", text)
    assert "default-src 'none'" in text


def test_what_comes_from_outside_is_text_and_nothing_else(results):
    hostile = {HOSTILE: results["ft"] | {"method": HOSTILE}, "mft": results["mft"]}

    page = Page(comparison_page(hostile, budget=1, title=HOSTILE))

    tags = [tag for tag, _ in page.elements]
    assert "img" not in tags
    assert tags.count("script") == 1
    assert page.texts["title"] == page.texts["h1"] == [HOSTILE]
    assert HOSTILE in page.texts["p"][1].replace("\u00a0", " ")  # the recommendation
    names = [
        attributes["data-name"] for _, attributes in page.elements if "data-name" in attributes
    ]
    assert names == ["mft", HOSTILE] * 3
    headings = [attributes.get("data-value") for tag, attributes in page.elements if tag == "th"]
    assert headings[-2:] == ["mft", HOSTILE]


def test_the_recommendation_is_there_word_for_word(results):
    page = Page(comparison_page(results, budget=1, title="a title"))

    assert page.texts["p"][1].replace("\u00a0", " ") == recommendation(results, budget=1)


def test_every_cell_says_what_it_sorts_by(results):
    page = Page(comparison_page(results, budget=1, title="a title"))

    titles = [title.replace("\u00a0", " ") for title in page.texts["button"]]
    values = [attributes.get("data-value") for tag, attributes in page.elements if tag == "td"]
    width = len(titles) - 1  # the first cell of a row is its heading
    rows = [
        dict(zip(titles[1:], values[start : start + width], strict=True))
        for start in range(0, len(values), width)
    ]
    assert [row["best S % with DG ≤ 1 %"] for row in rows] == ["8", "6", "5"]
    assert [row["learning rate"] for row in rows] == ["0.0001", "0.0001", "3e-05"]
    assert [row["DG % at S = 8 %"] for row in rows] == ["0.5", "2.5", None]
    headings = [attributes for tag, attributes in page.elements if tag == "th"][: len(titles)]
    sorting = {title: th.get("aria-sort") for title, th in zip(titles, headings, strict=True)}
    assert {title for title, order in sorting.items() if order} == {"best S % with DG ≤ 1 %"}


def test_the_figures_have_every_evaluation_in_the_order_of_the_rows(results):
    page = Page(comparison_page(results, budget=1, title="a title"))

    names = {
        attributes.get("data-line"): attributes.get("data-name")
        for _, attributes in page.first_chart()
    }
    assert [names[str(number)] for number in range(3)] == ["mft", "ft", "mft slow"]
    assert page.told()["1"] == [
        "step 0 · S 0.00 % · DG 0.00 %",
        "step 10 · S 6.00 % · DG 1.00 %",
        "step 20 (kept) · S 10.00 % · DG 4.00 %",
    ]


def test_what_is_not_finite_is_left_out(trial):
    results = {"ft": trial("ft", (0, 0), (6, 1), (-float("inf"), float("inf")))}
    results["ft"]["intervals"]["degeneralization"] = [None, None]

    text = comparison_page(results, budget=1, title="a title")

    assert len(Page(text).told()["0"]) == 2
    assert not re.search(r"\b(inf|nan)\b", text)


def test_a_blend_has_its_coefficients(results, blend):
    page = comparison_page(results | {"ft+blend": blend}, budget=1, title="a title")

    places = [[words.split(" · ")[0] for words in told] for told in Page(page).told().values()]
    assert ["c = 0", "c = 0.5", "step 20 (kept)"] in places
    assert "A blend is of one step" in page


def test_general_text_that_the_model_wrote_itself_is_called_so(results):
    page = comparison_page(results, budget=1, title="a title")
    for metrics in results.values():
        metrics["data"]["general"]["sources"] = ["self"]

    assert "wrote that text itself" not in page
    assert "wrote that text itself" in comparison_page(results, budget=1, title="a title")


def test_without_general_text_gain_alone_is_drawn(result):
    results = {"ft": result("ft", general=False), "mft": result("mft", general=False)}

    page = Page(comparison_page(results, budget=1, title="a title"))

    charts = [
        attributes["aria-label"]
        for tag, attributes in page.elements
        if tag == "svg" and "role" in attributes
    ]
    assert charts == ["S, gain on the specialized text, %, over step: the table has the numbers"]
    assert page.told()["0"][-1] == "step 40 (kept) · S 6.50 %"


def test_nothing_to_compare_is_said_so():
    with pytest.raises(InputError, match="no result to compare"):
        comparison_page({}, budget=1, title="a title")
