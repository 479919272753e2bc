import pytest

from minifinetuning.report import equal_specialization
from minifinetuning.report.equal_gain import degeneralization_at


def path(*points: tuple[float, float]) -> list[dict[str, float]]:
    return [{"specialization": s, "degeneralization": dg} for s, dg in points]


def test_degeneralization_is_linear_between_evaluations() -> None:
    history = path((0, 0), (4, 1), (8, 3), (7, 5))
    assert degeneralization_at(2, history) == pytest.approx(0.5)
    assert degeneralization_at(6, history) == pytest.approx(2)
    assert degeneralization_at(8, history) == pytest.approx(3)
    assert degeneralization_at(9, history) is None


def test_sentence_compares_at_the_same_gain() -> None:
    kept = {"method": "mft", "specialization": 6.0, "degeneralization": 0.6}
    other = {"method": "ft", "history": path((0, 0), (4, 1), (8, 3))}
    sentence = equal_specialization(kept, other)
    assert "6.00 %" in sentence
    assert "mft had lost DG 0.60 % (DG/S 0.100)" in sentence
    assert "ft 2.00 % (DG/S 0.333)" in sentence


def test_what_was_never_reached_is_said() -> None:
    kept = {"method": "mft", "specialization": 9.0, "degeneralization": 0.6}
    other = {"method": "ft", "history": path((0, 0), (4, 1))}
    assert "never" in equal_specialization(kept, other)
    assert equal_specialization(kept | {"degeneralization": None}, other) == ""
