import pytest

from minifinetuning.data.readers.html import visible_text


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
        ("by <sup>14</sup>C", "by ^14C"),
        ("log<sub>2</sub>8", "log_2 8"),
        ("x<sub>1</sub>0", "x_1 0"),
        ("C<sub>6</sub>0", "C_6 0"),
        ("a<sub>n-1</sub>", "a_(n-1)"),
        ("Al<sub>2</sub>(SO<sub>4</sub>)<sub>3</sub>", "Al2(SO4)3"),
        ("SO<sub>4</sub><sup>2-</sup>", "SO4^(2-)"),
        ("e<sup>x<sup>2</sup></sup>dx", "e^(x^2)dx"),
        ("2<sup>2n</sup>", "2^(2n)"),
        ("10<b><sup>3</sup></b>5", "10^3 5"),
        ("1<sup>1</sup>/<sub>2</sub> cups", "1 1/2 cups"),
        ("5<sup>1</sup>&frasl;<sub>2</sub>", "5 1/2"),
        ("2<math><mfrac><mn>1</mn><mn>2</mn></mfrac></math>", "2 1/2"),
        ("<math><msqrt><mn>2</mn></msqrt></math>", "√2"),
        ("<math><msqrt><mi>x</mi><mo>+</mo><mn>1</mn></msqrt><mn>2</mn></math>", "√(x+1)2"),
        ("<math><mroot><mn>8</mn><mn>3</mn></mroot></math>", "8^(1/3)"),
        (
            "<math><mfrac><mrow><mi>a</mi><mo>+</mo><mi>b</mi></mrow><mn>2</mn></mfrac></math>",
            "(a+b)/2",
        ),
        ("<math><msubsup><mi>x</mi><mn>1</mn><mn>2</mn></msubsup></math>", "x_1^2"),
        (
            "<math><munderover><mo>∑</mo><mn>1</mn><mn>10</mn></munderover><mn>5</mn></math>",
            "∑_1^10 5",
        ),
        (
            "<math><msup><mrow><mo>(</mo><mn>1</mn><mo>+</mo><mi>x</mi><mo>)</mo></mrow>"
            "<mrow><mn>2</mn><mo>&#x2062;</mo><mi>n</mi></mrow></msup></math>",
            "(1+x)^(2n)",
        ),
        ("<math><msup><mn>2</mn><mi>x</mi></msup><mi>y</mi></math>", "2^x y"),
        ("<math><mover><mi>x</mi><mo>¯</mo></mover></math>", "x¯"),
        (
            "<math><mmultiscripts><mi>C</mi><mprescripts/><mn>6</mn><mn>14</mn></mmultiscripts>"
            "</math>",
            "_6^14 C",
        ),
        ("<math alttext='{\\displaystyle x^{2}}'><mi>x</mi></math>", "x^{2}"),
        ("<script type='math/tex'>x^2</script>", "x^2"),
        ("a<sup></sup>b", "ab"),
    ],
)
def test_no_number_becomes_another(markup, text):
    assert visible_text(f"<p>{markup}</p>") == text


MATH = (
    "<math><mi>E</mi><annotation encoding='application/x-tex'>{\\displaystyle E=mc^{2}}"
    "</annotation></math>"
)
PICTURE = "<img class='mwe-math-fallback-image-inline' aria-hidden=true alt='E=mc^{2}'>"


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        (f"<span><span style='display: none;'>{MATH}</span>{PICTURE}</span>", "E=mc^{2}"),
        (f"<span>{MATH}{PICTURE}</span>", "E=mc^{2}"),
        (PICTURE.replace("aria-hidden=true", ""), "E=mc^{2}"),
        (PICTURE, "E=mc^{2}"),
        (f"<span hidden>{MATH}</span>", ""),
    ],
)
def test_a_formula_that_is_shown_as_a_picture_is_read_once(markup, text):
    assert visible_text(f"<p>It is ({markup}) here.</p>") == f"It is ({text}) here."


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
LIST = LINKS.replace("<a", "<li><a")
TABLE = "".join(f"<tr><td><a href=#{n}>open_file_{n}</a><td>opens</tr>" for n in range(6))
NAMES = "".join(f"<h2>open_file_{n}</h2>" for n in range(6))
PAPERS = "".join(f"<li><a href={n}>Smith J. A long title, {n}. Nature 1970</a>" for n in range(6))


@pytest.mark.parametrize(
    "menu",
    [
        f"<nav>{LINKS}</nav>",
        f"<div role=navigation>{LINKS}</div>",
        f"<div class=left>{LINKS}</div>",
        f"<div id=site-nav><div><ul>{LIST}</ul></div></div>",
        f"<ul class=sidebarList>{LIST}</ul>",
        f"<div><header><ul>{LIST}</ul></header></div>",
        f"<main><ul>{LIST.replace('Chapter', 'On ')}</ul></main>",
    ],
)
def test_menus_are_left_out(menu):
    headings = "".join(f"<h2>On {n}</h2>" for n in range(6)) if "<main>" in menu else ""
    page = f"<h1>T</h1>{menu}<p>Text with <a href=x>a link</a>.</p>{headings}"
    assert visible_text(page).startswith("T\n\nText with a link.")


@pytest.mark.parametrize("menu", [f"<ul>{LIST}</ul>", f"<table><tr><td>{LINKS}</td></tr></table>"])
def test_a_list_of_links_before_all_headings_is_a_menu(menu):
    page = f"<body>{menu}<h1>T</h1><p>Text with <a href=x>a link</a>.</p><body><footer>(c)</footer>"
    assert visible_text(page) == "T\n\nText with a link."


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (f"<h1>Glossary</h1><ul>{LIST}</ul><p>end", "Chapter 5"),
        (f"<h1>API</h1><table>{TABLE}</table><p>end", "open_file_5"),
        (f"<h1>API</h1><table>{TABLE}</table>{NAMES}", "opens"),
        (f"<p>Text.<h2>References</h2><ol>{PAPERS}</ol>", "title, 5"),
        (f"<body><ol>{PAPERS}</ol><h1>end</h1>", "title, 5"),
        (f"<main><ul>{LIST}</ul><h1>end</h1></main>", "Chapter 5"),
        (f"<p>{LINKS.replace('</a> ', '</a>, ')}</p><p>end", "Chapter 5"),
        (f"<div class=with-sidebar><h1>T</h1><ul>{LIST}</ul><p>{'Text. ' * 40}</div>", "Chapter 5"),
        (f"<h1>T</h1><ul class=protocol-stock>{LIST}</ul><p>end", "Chapter 5"),
    ],
)
def test_lists_and_tables_of_links_in_the_content_stay(content, kept):
    assert kept in visible_text(content)


def test_a_text_with_links_and_a_page_of_nothing_else_are_read():
    assert visible_text(f"<p>Read on: {LINKS} as all of it is worth its time, and more than that")
    assert visible_text(f"<ul>{LINKS}</ul>").split()[:2] == ["Chapter", "0"]


def test_a_page_nested_as_no_person_does_it_is_read():
    page = "<div>" * 5000 + "deep 10<sup>3</sup>" + "</div>" * 5000
    assert visible_text(page) == "deep 10^3"


def test_a_formula_nested_as_no_person_does_it_is_read():
    assert visible_text("<math>" + "<mrow>" * 3000 + "<mi>x</mi>") == "x"
