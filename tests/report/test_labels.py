import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minifinetuning.report.labels import Labels


@pytest.fixture
def axes() -> Axes:
    axes = Figure().add_subplot(xlim=(0, 10), ylim=(0, 10))
    axes.figure.draw_without_rendering()
    return axes


def test_labels_of_one_point_do_not_lie_on_each_other(axes):
    labels = Labels(axes)
    for name in ("one", "two", "three", "four"):
        labels.add(name, (5, 5))

    boxes = [text.get_window_extent() for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == ["one", "two", "three", "four"]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_a_label_keeps_off_a_line(axes):
    labels = Labels(axes)
    labels.avoid([(5, 5), (10, 5)])
    labels.add("name", (5, 5))

    box = axes.texts[0].get_window_extent()
    height = axes.transData.transform((5, 5))[1]
    assert box.y0 > height or box.y1 < height or box.x1 < axes.transData.transform((5, 5))[0]


def test_an_optional_label_without_room_is_left_out(axes):
    labels = Labels(axes)
    for height in range(50):
        labels.avoid([(0, height / 5), (10, height / 5)])
    labels.add("step 40", (5, 5), optional=True)
    labels.add("name", (5, 5))

    assert [text.get_text() for text in axes.texts] == ["name"]
