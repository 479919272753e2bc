"""What a negative DG says: the starting model had not learnt the general text's kind yet."""

from collections.abc import Mapping

from minifinetuning.report.tables import Metrics

__all__ = ["about_unprepared", "has_negative_loss", "with_unprepared_note"]


def has_negative_loss(metrics: Metrics) -> bool:
    """Whether all of DG's interval lies below zero, though no general text was trained on.

    A DG that may be zero says nothing, nor does one of replay, which is there to improve that text.
    """
    if "replay" in metrics["method"] or (metrics.get("data") or {}).get("replay"):
        return False
    interval = (metrics.get("intervals") or {}).get("degeneralization")
    high = None if interval is None else interval[1]
    return high is not None and high < 0


def about_unprepared(results: Mapping[str, Metrics]) -> str:
    """A sentence about the results, by name, whose DG is negative; empty where none is.

    Then S and DG are not what they seem, and the sentence says what to do about it.
    """
    names = [name for name, metrics in results.items() if has_negative_loss(metrics)]
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
