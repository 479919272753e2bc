import multiprocessing
import os
import sys

import pytest
import torch
from harness import (
    NotMeasuredError,
    Timings,
    in_fresh_process,
    interleaved,
    peak_memory,
    reason,
    require_memory,
)

MEBIBYTE = 2**20


def test_rounds_are_interleaved_in_changing_order() -> None:
    ran: list[str] = []
    variants = {name: [lambda name=name: ran.append(name)] for name in "abc"}
    timings = interleaved(variants, rounds=6, device="cpu", warm_ups=1)
    rounds = ["".join(ran[i : i + 3]) for i in range(0, len(ran), 3)]
    assert len(rounds) == 7
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds[1:])) == 6
    assert {name: len(found) for name, found in timings.seconds.items()} == dict.fromkeys("abc", 6)


def test_a_variant_that_raises_keeps_its_reason_and_stops_no_other() -> None:
    def fail() -> None:
        raise RuntimeError("no driver\nsecond line")

    timings = interleaved({"good": [lambda: None], "bad": [fail]}, rounds=2, device="cpu")
    assert timings.failures == {"bad": "RuntimeError: no driver"}
    assert list(timings.seconds) == ["good"]


def test_a_ratio_is_taken_within_a_round() -> None:
    # The machine is ten times slower in the second round, for both alike.
    timings = Timings({"a": [[1.0, 2.0], [10.0, 20.0], [2.0, 2.0]], "b": [[2.0], [20.0], [2.0]]})
    assert timings.ratio("a", "b") == (1.5, 1.5, 1.75)
    assert timings.median("a") == 4.0
    assert timings.median("a", part=0) == 2.0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_is_what_was_held_at_once_and_is_free_again() -> None:
    torch.ones(256 * MEBIBYTE, dtype=torch.uint8)  # an earlier peak, which does not count
    held = torch.ones(64 * MEBIBYTE, dtype=torch.uint8)

    def hold() -> None:
        for _ in range(3):
            torch.ones(96 * MEBIBYTE, dtype=torch.uint8)

    assert peak_memory(hold, "cpu") == pytest.approx(96 * MEBIBYTE, rel=0.1)
    assert held.sum() == held.numel()


def test_a_cell_that_cannot_fit_is_refused_before_it_runs() -> None:
    require_memory(1, "cpu")
    with pytest.raises(NotMeasuredError, match=r"predicted to need 1048576\.0 GiB"):
        require_memory(2**50, "cpu")


def test_a_fresh_process_is_another_one_and_its_exceptions_come_back() -> None:
    assert in_fresh_process(os.getpid) != os.getpid()
    with pytest.raises(NotMeasuredError, match="killed"):
        in_fresh_process(os._exit, 1)


def test_a_reason_is_one_short_line() -> None:
    assert reason(ValueError("first\nsecond")) == "ValueError: first"
    assert reason(NotMeasuredError("runs on CUDA only")) == "runs on CUDA only"
    assert reason(KeyError()) == "KeyError"
    assert len(reason(ValueError("x" * 1000))) < 200


def test_a_fresh_process_starts_others_as_a_script_does() -> None:
    own = multiprocessing.get_all_start_methods()[0]
    assert in_fresh_process(multiprocessing.get_start_method) == own
