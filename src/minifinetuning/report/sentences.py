"""Figures, names and short facts of a run as a person reads them, in words."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from minifinetuning.data.corpus import counted
from minifinetuning.models.origin import is_hub_id

__all__ = [
    "ROUGH_DOCUMENTS",
    "Metrics",
    "about_unprepared",
    "degeneralization_at",
    "equal_specialization",
    "is_self_written",
    "learning_rate",
    "loadable",
    "measured_on",
    "number",
    "percent",
    "ratio",
    "shown",
    "validation_extent",
    "with_unprepared_note",
]

Metrics = Mapping[str, Any]
"""The content of a `metrics.json`."""

ROUGH_DOCUMENTS = 20
"""With fewer documents than this an interval says little more than its order of magnitude."""


def number(value: float | None, digits: int = 2) -> str:
    """A value with so many digits after the point, and `-` where there is none."""
    # Adding zero turns the "-0.0" that rounding may leave into "0.0".
    return "-" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"


def percent(metrics: Metrics, name: str) -> str:
    """S or DG with its interval, like `6.50 [5.90, 7.10]`."""
    return _with_interval(metrics[name], metrics["intervals"][name], digits=2)


def ratio(metrics: Metrics) -> str:
    """DG/S with its interval, like `0.062 [0.041, unbounded]`."""
    return _with_interval(metrics["ratio"], metrics["intervals"]["ratio"], digits=3)


def learning_rate(metrics: Metrics) -> str:
    """The learning rate as people type it, like `3e-5`."""
    mantissa, exponent = f"{metrics['learning_rate']:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def shown(value: object) -> str:
    """A setting in one line. A path shows its last part only: the rest is the author's business."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={shown(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(shown(item) for item in value)
    text = str(value)
    if is_hub_id(text) or not re.search(r"[/\\]", text):
        return text
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1]


def loadable(model: str) -> str:
    """What `from_pretrained` takes, with a reader's own folder in place of the author's."""
    return model if is_hub_id(model) else f"path/to/{shown(model)}"


def measured_on(metrics: Metrics) -> str:
    """How many documents, tokens and sequences of each text the figures in a table are of.

    Results of before documents were told apart drew sequences, and the sentence says so.
    """
    level = f"{100 * metrics['intervals']['level']:g} %"
    validation = metrics.get("validation")
    if validation is None:
        return _by_sequence(metrics["data"], level)
    known = {name: extent for name, extent in validation.items() if extent is not None}
    texts = " and ".join(validation_extent(name, extent) for name, extent in known.items())
    notes = (_about_few(name, extent["documents"]) for name, extent in known.items())
    opening = f"Measured on {texts}; brackets are {level} intervals by document."
    return " ".join([opening, *(note for note in notes if note)])


def validation_extent(name: str, extent: Mapping[str, Any]) -> str:
    """Like `53 documents of general text (12,034 tokens, 24 sequences)`."""
    sequences = extent["sequences"]
    size = f"{extent['tokens']:,} tokens"
    if sequences is not None:
        size += f", {counted(sequences, 'sequence')}"
    return f"{counted(extent['documents'], 'document')} of {name} text ({size})"


def is_self_written(metrics: Metrics) -> bool:
    """Whether the starting model wrote the general text itself."""
    return (metrics["data"]["general"] or {}).get("sources") == ["self"]


def about_unprepared(results: Mapping[str, Metrics]) -> str:
    """A sentence about the results, by name, whose DG is negative; empty where none is.

    Then S and DG are not what they seem, and the sentence says what to do about it.
    """
    names = [name for name, metrics in results.items() if _has_negative_loss(metrics)]
    if not names:
        return ""
    whose = f" for {', '.join(names)}" if len(results) > 1 else ""
    return (
        f"DG is negative{whose}: training improved the general text, so the reference was not "
        "prepared, and S and DG do not mean what they should; run `mft prepare-reference` first "
        "and start from its output."
    )


def with_unprepared_note(text: str, metrics: Metrics) -> str:
    """The text about one result, and behind it the sentence about its negative DG, if that is."""
    return " ".join(part for part in (text, about_unprepared({"": metrics})) if part)


def equal_specialization(kept: Metrics, other: Metrics) -> str:
    """One sentence: DG of `other` when its S passed the S that `kept` ended with.

    A method that trains harder gains and loses more in the same steps, so its DG/S at its own end
    says little; on its way it passed the other's S. DG there is interpolated.
    Empty where general text is missing.
    """
    gained, lost = kept["specialization"], kept["degeneralization"]
    if lost is None or gained <= 0:
        return ""
    name, other_name = kept["method"], other["method"]
    there = degeneralization_at(gained, other["history"])
    if there is None:
        return f"{other_name} never reached the S of {name}, {gained:.2f} %."
    return (
        f"At the S that {name} ended with, {gained:.2f} %: {name} had lost DG {lost:.2f} % "
        f"(DG/S {lost / gained:.3f}), {other_name} {there:.2f} % (DG/S {there / gained:.3f})."
    )


def degeneralization_at(
    specialization: float, evaluations: Sequence[Mapping[str, Any]]
) -> float | None:
    """DG (%) where S first passed `specialization` (%), interpolated; None where it never did."""
    for before, after in pairwise(evaluations):
        low, high = float(before["specialization"]), float(after["specialization"])
        if low <= specialization <= high and high > low:
            share = (specialization - low) / (high - low)
            start, end = float(before["degeneralization"]), float(after["degeneralization"])
            return start + share * (end - start)
    return None


def _with_interval(
    value: float | None, interval: Sequence[float | None] | None, digits: int
) -> str:
    if interval is None:
        return number(value, digits)
    bounds = ("unbounded" if bound is None else number(bound, digits) for bound in interval)
    return f"{number(value, digits)} [{', '.join(bounds)}]"


def _about_few(name: str, documents: int) -> str:
    """What a reader has to know of an interval of few documents; empty where they are enough."""
    if documents == 1:
        return (
            f"The {name} text is one document, so its sequences were drawn: that interval is "
            "rough, and holds for this document alone."
        )
    if documents < ROUGH_DOCUMENTS:
        return f"The intervals of the {name} text are rough: it has fewer than {ROUGH_DOCUMENTS}."
    return ""


def _by_sequence(data: Mapping[str, Any], level: str) -> str:
    texts = " and ".join(
        f"{counted(summary['validation_documents'], 'document')} of {name} text "
        f"({counted(summary['validation_sequences'], 'sequence')})"
        for name, summary in data.items()
        if name in ("specialized", "general") and summary is not None
    )
    return (
        f"Measured on {texts}, all positions counted; brackets are {level} intervals by sequence, "
        "which are too narrow where a document has several."
    )


def _has_negative_loss(metrics: Metrics) -> bool:
    """Whether all of DG's interval lies below zero, though no general text was trained on.

    A DG that may be zero says nothing, nor does one of replay, which is there to improve that text.
    """
    if "replay" in metrics["method"] or (metrics.get("data") or {}).get("replay"):
        return False
    interval = (metrics.get("intervals") or {}).get("degeneralization")
    high = None if interval is None else interval[1]
    return high is not None and high < 0
