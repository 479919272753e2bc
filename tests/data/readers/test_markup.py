import pytest

from minifinetuning.data.readers.markup import visible_text


def test_blocks_break_lines_and_inline_tags_do_not():
    page = "<h1>Title</h1><p>One <b>bold</b>\n  word.</p><ul><li>a<li>b</ul>c<br>d"
    assert visible_text(page) == "Title\n\nOne bold word.\n\n  • a\n  • b\nc\nd"


def test_head_script_and_style_are_dropped():
    page = (
        "<html><head><title>Our rules</title><style>p {}</style><script>var a = '<p>';"
        "</script></head><body><script>b()</script><p>Read.</p><style>i {}</style></body></html>"
    )
    assert visible_text(page) == "Our rules\n\nRead."


def test_the_title_stands_in_for_a_missing_heading_alone():
    assert visible_text("<title>T</title><p>Seen") == "T\n\nSeen"
    assert visible_text("<title>T at home</title><h1>T</h1>") == "T"
    assert visible_text("<title>T</title><b>T</b>") == "T"


def test_entities_are_decoded():
    assert visible_text("<p>a &lt; b &amp; caf&eacute; &#8364;</p>") == "a < b & café €"


def test_rows_of_a_table_stay_lines_and_cells_apart():
    page = "<table><tr><th>k<th>v</tr><tr><td>1</td><td>2</td></tr><tr><td></td><td>3</table>"
    rows = [line.split("\t\t") for line in visible_text(page).split("\n")]
    assert rows == [["k", "v"], ["1", "2"], ["", "3"]]


def test_preformatted_text_keeps_its_white_space():
    assert visible_text("<pre>if x:\n    y</pre>\n  <p> z </p>") == "if x:\n    y\n\nz"


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("10<sup>3</sup>", "10^3"),
        ("10<sup>-3</sup>", "10^-3"),
        ("x<sup>n</sup>", "x^n"),
        ("e<sup>n + 1</sup>", "e^(n + 1)"),
        ("the 1<sup>st</sup> of", "the 1st of"),
        ("H<sub>2</sub>O", "H2O"),
        ("101<sub>2</sub>", "101_2"),
        ("5<sup><a href='#f1'>1</a></sup>", "5[1]"),
        ("5<sup><a href='#f1'>[1]</a></sup>", "5[1]"),
        ("<math><msup><mn>10</mn><mn>3</mn></msup></math>", "10^3"),
        ("<math><mfrac><mn>1</mn><mn>2</mn></mfrac></math>", "1/2"),
        (
            "<math>2<annotation encoding='application/x-tex'>\\sqrt{4}</annotation></math>",
            "\\sqrt{4}",
        ),
        ("<sup>3</sup>He", "^3He"),
        ("a<sup></sup>b", "ab"),
    ],
)
def test_no_number_becomes_another(markup, text):
    assert visible_text(f"<p>{markup}</p>") == text


@pytest.mark.parametrize(
    "hidden",
    [
        "<p hidden>no</p>",
        "<p style='color: red; display: none'>no</p>",
        "<p style='DISPLAY:NONE'>no</p>",
        "<div style='visibility:hidden'><p>no</p></div>",
        "<p aria-hidden=true>no</p>",
        "<template>no</template>",
        "<!-- no -->",
        "<span class='note sr-only'>no</span>",
    ],
)
def test_what_is_hidden_is_not_read(hidden):
    assert visible_text(f"<h1>T</h1>{hidden}<p>seen") == "T\n\nseen"


LINKS = "".join(f"<a href=/{n}>Chapter {n}</a> " for n in range(6))


@pytest.mark.parametrize(
    "menu",
    [
        f"<nav>{LINKS}</nav>",
        f"<div role=navigation>{LINKS}</div>",
        f"<div class=left>{LINKS}</div>",
        f"<ul>{LINKS.replace('<a', '<li><a')}</ul>",
        f"<table><tr><td>{LINKS}</td></tr></table>",
    ],
)
def test_menus_are_left_out(menu):
    page = f"<h1>T</h1>{menu}<p>Text with <a href=x>a link</a>.</p><body><footer>(c)</footer>"
    assert visible_text(page) == "T\n\nText with a link."


def test_a_text_with_links_and_a_page_of_nothing_else_are_read():
    assert visible_text(f"<p>Read on: {LINKS} as all of it is worth its time, and more than that")
    assert visible_text(f"<ul>{LINKS}</ul>").split()[:2] == ["Chapter", "0"]


def test_a_page_nested_as_no_person_does_it_is_read():
    page = "<div>" * 5000 + "deep 10<sup>3</sup>" + "</div>" * 5000
    assert visible_text(page) == "deep 10^3"
