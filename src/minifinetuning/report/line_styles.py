"""How a result looks in every picture: colour for its objective, dash and marker for the rest."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle

from minifinetuning.report.sentences import Metrics

__all__ = ["LineStyle", "line_styles"]

# Okabe and Ito's colours, then those farthest from them for readers of any colour vision.
_BLUE, _ORANGE = "#0072B2", "#D55E00"
_FIXED_COLOURS = {"mft": _BLUE, "minifinetuning": _BLUE, "ft": _ORANGE, "finetuning": _ORANGE}
_OKABE_ITO = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_FARTHEST = ("#4d4d4d", "#8a3ffc", "#72561d", "#47008f", "#3f6183", "#87c07c", "#c9b655")
_OTHER_COLOURS = _OKABE_ITO + _FARTHEST

_Look = tuple[str, tuple[float, ...]]
_FIXED_FAMILIES: dict[str, _Look] = {
    "": ("o", ()),
    "lora": ("s", (4, 1.6)),
    "dora": ("^", (1.2, 1.4)),
    "ia3": ("D", (5, 1.5, 1.2, 1.5)),
    "replay": ("v", (9, 2)),
    "self_replay": ("<", (9, 1.5, 3, 1.5)),
    "blend": (">", (2.5, 1.2)),
}
_OTHER_FAMILIES: tuple[_Look, ...] = (
    ("P", (9, 1.5, 1.2, 1.5)),
    ("X", (5, 1.5, 1.2, 1.5, 1.2, 1.5)),
)
_EWC = "ewc"
_PALEST = 0.45


@dataclass(frozen=True)
class LineStyle:
    """A line's colour, its markers (matplotlib's letters), its dash and how pale it is.

    `dash` is lengths on and off in line widths, empty for a solid line. `paleness` is the share of
    the background mixed into the colour: 0 for the largest learning rate of a method, more for a
    smaller one.
    """

    colour: str
    marker: str
    dash: tuple[float, ...]
    paleness: float

    @property
    def on_white(self) -> str:
        """The colour with its paleness, on a white background."""
        channels = (int(self.colour[start : start + 2], 16) for start in (1, 3, 5))
        mixed = (round(value + self.paleness * (255 - value)) for value in channels)
        return "#" + "".join(f"{value:02x}" for value in mixed)


def line_styles(results: Mapping[str, Metrics]) -> dict[str, LineStyle]:
    """A style for each result, by its method: `lora+mft` is MFT's colour with LoRA's dash.

    Finetuning is orange and minifinetuning blue in every picture; `lora` and `replay` alone are
    finetuning, `ewc` alone has a colour of its own. Other objectives take colours, and other
    families dashes, as they come.
    """
    methods = {name: str(metrics.get("method", name)) for name, metrics in results.items()}
    parts = {name: _family_and_objective(method) for name, method in methods.items()}
    families = [family for family, _ in parts.values()]
    objectives = [objective for _, objective in parts.values()]
    colours = _FIXED_COLOURS | dict(zip(_others(objectives, _FIXED_COLOURS), cycle(_OTHER_COLOURS)))
    shapes = _FIXED_FAMILIES | dict(zip(_others(families, _FIXED_FAMILIES), cycle(_OTHER_FAMILIES)))
    return {
        name: LineStyle(colours[objective], *shapes[family], _paleness(name, results, methods))
        for name, (family, objective) in parts.items()
    }


def _family_and_objective(method: str) -> tuple[str, str]:
    """`lora+mft` and `mft+lora` are (lora, mft); without an objective it is EWC or finetuning."""
    words = sorted(method.lower().split("+"))
    objectives = [word for word in words if word not in (*_FIXED_FAMILIES, _EWC)]
    objective = objectives[-1] if objectives else _EWC if _EWC in words else "ft"
    return "+".join(word for word in words if word != objective), objective


def _others(names: list[str], fixed: Mapping[str, object]) -> list[str]:
    """The names that have no fixed look, each once, in order."""
    return [name for name in dict.fromkeys(names) if name not in fixed]


def _paleness(name: str, results: Mapping[str, Metrics], methods: Mapping[str, str]) -> float:
    """By the rank of the learning rate among the results of the same method."""
    same = [other for other in results if methods[other] == methods[name]]
    same.sort(key=lambda other: results[other].get("learning_rate") or 0, reverse=True)
    return _PALEST * same.index(name) / max(1, len(same) - 1)
