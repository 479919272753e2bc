from minifinetuning.data.markup import visible_text


def test_blocks_break_lines_and_inline_tags_do_not():
    page = "<h1>Title</h1><p>One <b>bold</b>\n  word.</p><ul><li>a<li>b</ul>c<br>d"
    assert visible_text(page) == "Title\nOne bold word.\na\nb\nc\nd"


def test_head_script_and_style_are_dropped_and_the_title_kept():
    page = (
        "<html><head>stray<title>Our rules</title><style>p {}</style><script>var a = '<p>';"
        "</script></head><body><script>b()</script><p>Read.</p><style>i {}</style></body></html>"
    )
    assert visible_text(page) == "Our rules\nRead."


def test_a_head_without_end_tag_ends_where_the_body_begins():
    assert visible_text("<head><meta charset=utf-8><title>T</title><p>Seen") == "T\nSeen"


def test_entities_are_decoded():
    assert visible_text("<p>a &lt; b &amp; caf&eacute; &#8364;</p>") == "a < b & café €"


def test_cells_of_a_table_do_not_run_together():
    assert visible_text("<table><tr><td>1</td><td>2</td></tr></table>").split() == ["1", "2"]


def test_preformatted_text_keeps_its_white_space():
    assert visible_text("<pre>if x:\n    y</pre>\n  <p> z </p>") == "if x:\n    y\nz"
