"""The oracle as a fixture: test folders are not importable under pytest's importlib mode."""

import runpy
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def truth():
    """`truth(...)` of oracle.py."""
    return runpy.run_path(str(Path(__file__).with_name("oracle.py")))["truth"]
