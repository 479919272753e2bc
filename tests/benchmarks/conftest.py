"""The benchmarks are scripts in a folder of their own, not a package."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process of its own for each cell: that is tested once, and takes seconds each time."""
    import harness

    def call(function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    monkeypatch.setattr(harness, "in_fresh_process", call)


@pytest.fixture
def results(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """`results(name)`: the JSON of a benchmark, once its table and plot were found beside it."""
    import json

    def read(name: str) -> dict[str, Any]:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "![" in (tmp_path / f"{name}.md").read_text()
        content: dict[str, Any] = json.loads((tmp_path / f"{name}.json").read_text())
        assert content["versions"]["torch"]
        assert content["device"]
        assert "output" not in content["options"]
        return content

    return read
