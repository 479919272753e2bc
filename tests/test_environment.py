import io
import sys

from minifinetuning.environment import print_any_name


def test_a_name_that_no_terminal_shows_is_printed(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    print_any_name()
    print("S 41.5 % in café-\udce9")
    out.flush()
    assert out.buffer.getvalue() == b"S 41.5 % in caf\\xe9-\\udce9\n"
