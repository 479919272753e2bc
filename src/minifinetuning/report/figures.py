"""A picture on its way to a file, drawn without a screen."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from minifinetuning.errors import InputError
from minifinetuning.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["saved_figure"]


@contextmanager
def saved_figure(path: Path, width: float, height: float) -> Iterator["Figure"]:
    """A figure of `width` by `height` inches, in place at `path` once it is whole.

    It never meets pyplot, so it needs no screen and leaves the caller's figures alone.
    Raises InputError where `path` ends neither in .png nor in .svg.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in ("png", "svg"):
        raise InputError(f"{path} is no picture that can be written: end its name in .png or .svg")
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)  # inches
    figure = Figure(figsize=(width, height), layout=layout)
    yield figure
    undated = {"Date": None} if kind == "svg" else None
    with (
        replacing(path) as temporary,
        # Text stays text in an SVG: small, searchable, and the same bytes every time.
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "minifinetuning"}),
    ):
        figure.savefig(temporary, format=kind, dpi=150, metadata=undated)
