"""The demo fits the machine: by its speed, never by its name."""

from typing import Any

import pytest

from minifinetuning.lab.demo.size import (
    BUDGET_SECONDS,
    Size,
    Speed,
    demo_size,
    measured_speed,
    said,
)

FULL = Size(40, 4, 12_000)
TOKENS = 1024


def speed(milliseconds: float) -> Speed:
    """Of a forward pass a token; a backward pass takes twice as long."""
    return Speed(forward=milliseconds / 1e3, training=3 * milliseconds / 1e3)


def test_a_fast_machine_runs_the_whole_demo() -> None:
    size, taken = demo_size(speed(0.3), BUDGET_SECONDS, TOKENS)
    assert size == FULL
    # 40,960 tokens through a step of each and through MFT's teacher; two texts by the reference
    # once, by both methods four times, and one by MFT's teacher as often.
    units = 40_960 * (2 * 1.15 * 3 + 1) + 12_000 * (2 + 4 * (4 + 1))
    assert taken == pytest.approx(units * 0.3e-3)


@pytest.mark.parametrize("milliseconds", [0.3, 0.8, 1.2, 1.7, 2.5, 3.0, 3.5])
def test_every_machine_but_the_slowest_ends_in_time(milliseconds: float) -> None:
    size, taken = demo_size(speed(milliseconds), 400.0, TOKENS)
    assert taken <= 400
    assert taken == size.seconds(speed(milliseconds), TOKENS)
    assert size.evaluations >= 2


def test_a_slower_machine_never_runs_more() -> None:
    sizes = [demo_size(speed(0.1 * tenths), 400.0, TOKENS)[0] for tenths in range(1, 80)]
    assert [size.steps for size in sizes] == sorted((s.steps for s in sizes), reverse=True)
    assert {size.steps for size in sizes} == {40, 32, 24, 20, 16, 12, 10, 8}


def test_the_slowest_runs_the_least_and_is_told_how_long_it_takes() -> None:
    slow = speed(40)
    size, taken = demo_size(slow, 400.0, TOKENS)
    assert size == Size(8, 2, 4_000)
    assert taken > 400
    line = said(size, slow, taken, TOKENS)
    assert "8 steps (on a fast machine 40 steps)" in line
    assert f"about {round(taken / 60)} minutes" in line
    assert "\n" not in line


@pytest.mark.parametrize("steps", [4, 17, 400])
def test_steps_that_were_asked_for_stay(steps: int) -> None:
    for milliseconds in (0.1, 3, 40):
        assert demo_size(speed(milliseconds), 400.0, TOKENS, steps)[0].steps == steps


def test_the_speed_is_the_models_own(llama: Any, tokenizer: Any, tmp_path: Any) -> None:
    llama.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = measured_speed(str(tmp_path), 64)
    assert found.forward > 0
    assert found.training >= 2 * found.forward
