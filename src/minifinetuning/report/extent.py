"""Of how much text figures are, and how far their intervals can be trusted, in sentences."""

from collections.abc import Mapping
from typing import Any

from minifinetuning.data.sources import counted
from minifinetuning.report.tables import Metrics

__all__ = ["ROUGH_DOCUMENTS", "measured_on", "validation_extent"]

ROUGH_DOCUMENTS = 20
"""With fewer documents than this an interval says little more than its order of magnitude."""


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
    notes = (_note(name, extent["documents"]) for name, extent in known.items())
    opening = f"Measured on {texts}; brackets are {level} intervals by document."
    return " ".join([opening, *(note for note in notes if note)])


def validation_extent(name: str, extent: Mapping[str, Any]) -> str:
    """Like `53 documents of general text (12,034 tokens, 24 sequences)`."""
    sequences = extent["sequences"]
    size = f"{extent['tokens']:,} tokens"
    if sequences is not None:
        size += f", {counted(sequences, 'sequence')}"
    return f"{counted(extent['documents'], 'document')} of {name} text ({size})"


def _note(name: str, documents: int) -> str:
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
