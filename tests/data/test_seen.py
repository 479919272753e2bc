import random
import tracemalloc

from minifinetuning.data.documents import SeenTexts


def test_it_answers_as_a_set_does():
    source = random.Random(0)
    seen, expected = SeenTexts(), set()
    for _ in range(20_000):
        text = str(source.randrange(12_000))
        assert seen.add(text) == (text not in expected)
        expected.add(text)
    assert len(seen) == len(expected)


def test_a_text_takes_few_bytes():
    tracemalloc.start()
    seen = SeenTexts()
    for number in range(100_000):
        seen.add(str(number))
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 25 * len(seen)
