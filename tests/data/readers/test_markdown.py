import pytest

from minifinetuning.data.readers.markdown import markdown_text


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("---\ntitle: T\ntags: [a]\n---\n# T\n", "# T\n"),
        ("+++\ntitle = 'T'\n+++\n# T\n", "# T\n"),
        ("---\n---\nx", "x"),
        ("---\n# Title\n\n---\nx", "---\n# Title\n\n---\nx"),
        ("---\n\nAn introduction\n\n---\n", "---\n\nAn introduction\n\n---\n"),
        ("a\n\n---\n\nb\n\n---\n", "a\n\n---\n\nb\n\n---\n"),
        ("a <!-- internal: do not publish --> b", "a  b"),
        ("a\n<!--\ninternal\n\n```\n-->\nb", "a\n\nb"),
        ("a <!-- never closed", "a "),
        ("```html\n<!-- shown -->\n```\n<!-- not -->c", "```html\n<!-- shown -->\n```\nc"),
        ("~~~~\n```\n<!-- shown -->\n~~~~\n", "~~~~\n```\n<!-- shown -->\n~~~~\n"),
        ("![The plan](data:image/png;base64,iVBORw0KGgo=) end", "The plan end"),
        ("![alt][1]\n\n[1]: data:image/png;base64,iVBORw0KGgo=\n", "![alt][1]\n\n\n"),
        ("a <img width=3 src='data:image/png;base64,iVBO'> b", "a  b"),
        ("![kept](plan.png) [kept](https://x)", "![kept](plan.png) [kept](https://x)"),
    ],
)
def test_what_no_reader_sees_leaves_the_text(content, text):
    assert markdown_text(content) == text


def test_a_long_rule_takes_no_time():
    assert markdown_text("---\na: b\n" + "a\n" * 200_000).startswith("---\na: b")
