import json

import pytest

from minifinetuning.data import DocumentStream
from minifinetuning.data.readers.markdown import markdown_text
from minifinetuning.errors import InputError


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
        # What nothing closes is text, and so is code of every kind.
        ("a <!-- never closed\n\nrest", "a <!-- never closed\n\nrest"),
        ("<!-- never closed\n\nrest", "<!-- never closed\n\nrest"),
        ("It opens with `<!--`.\n\nThe rest.\n", "It opens with `<!--`.\n\nThe rest.\n"),
        ("`` ` <!-- x --> `` <!-- y -->.", "`` ` <!-- x --> `` ."),
        ("a <!-- ` --> and `<!-- z -->`", "a  and `<!-- z -->`"),
        ("a ` <!-- y --> b\n\n`c", "a `  b\n\n`c"),
        ("    <!-- indented -->\n\nafter", "    <!-- indented -->\n\nafter"),
        (
            "- item\n  ```html\n  <!-- kept -->\n  ```\n",
            "- item\n  ```html\n  <!-- kept -->\n  ```\n",
        ),
        (
            "1. x\n\n    ```\n    <!-- k -->\n    ```\n",
            "1. x\n\n    ```\n    <!-- k -->\n    ```\n",
        ),
        ("> ```\n> <!-- q -->\n> ```\n> <!-- no -->\n", "> ```\n> <!-- q -->\n> ```\n> \n"),
        ("`![a](data:x)` ![b](data:y)", "`![a](data:x)` b"),
        ("- a <!-- no -->\n- b <!--> c", "- a \n- b  c"),
        ("```html\n<!-- shown -->\n```\n<!-- not -->c", "```html\n<!-- shown -->\n```\nc"),
        ("a\fb\u2028c\n\n```\n<!-- k -->\n```\n<!-- -->", "a\fb\u2028c\n\n```\n<!-- k -->\n```\n"),
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


def test_a_long_text_with_a_comment_takes_little_time():
    text = "A paragraph with `code` in it.\n\n" * 2000
    assert markdown_text(text + "<!-- no -->" + text) == text + text
    for unclosed in ("a <!-- " * 20_000, "<!-- " * 20_000):
        assert markdown_text(unclosed) == unclosed


def texts(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [document.text for document in DocumentStream([str(path)])]


def test_a_notebook_is_its_cells_without_output(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "<!-- no -->Text"]},
        {"cell_type": "code", "source": "x = 1", "outputs": [{"text": "no"}]},
        {"cell_type": "raw", "source": []},
    ]
    assert texts(tmp_path / "a.ipynb", json.dumps({"cells": cells, "nbformat": 4})) == [
        "# Title\nText\n\nx = 1"
    ]
    old = {"worksheets": [{"cells": [{"cell_type": "code", "input": ["y = 2"]}]}]}
    assert texts(tmp_path / "a.ipynb", json.dumps(old)) == ["y = 2"]
    for other in ({"a": 1}, [1], {"cells": 3}):
        with pytest.raises(InputError, match="no notebook"):
            texts(tmp_path / "a.ipynb", json.dumps(other))
