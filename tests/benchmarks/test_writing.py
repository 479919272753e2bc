from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import writing


def test_table_plot_and_json(
    saved_model: Callable[..., Path], results: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    options = ["--sequences", "4", "--plain", "2", "--sequence_length", "6", "--rounds", "2"]
    options += ["--dtype", "float32", "--threads", "1", "--device", "cpu"]
    writing.main(["--model", str(saved_model()), *options, "--output", str(tmp_path)])
    plain, ours = results("writing")["cells"]
    assert (plain["loop"], ours["loop"]) == (writing.PLAIN, writing.OURS)
    assert (plain["sequences"], ours["sequences"]) == (2, 4)
    assert all(len(cell["tokens_per_second"]) == 2 for cell in (plain, ours))
    assert str(round(writing.times(plain, plain, "tokens_per_second"))) == "1"


def test_both_loops_write_as_many_tokens(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    assert writing.plain_loop(model, 3, 7).shape == (3, 7)
    assert writing.our_loop(model, 3, 7, bf16=False).shape == (3, 7)


def test_a_loop_that_fails_is_its_reason() -> None:
    failed = {"loop": writing.OURS, "sequences": 4, "reason": "out of memory"}
    assert writing.table_row(failed, failed) == [writing.OURS, "out of memory"]
    measured = {"loop": writing.OURS, "sequences": 4}
    measured |= {"tokens_per_second": [8.0], "tokens_per_processor_second": [16.0]}
    assert writing.table_row(measured, failed) == [writing.OURS, "4", "8", "", "16", ""]
    half = measured | {"tokens_per_second": [4.0], "tokens_per_processor_second": [8.0]}
    assert writing.times(measured, half, "tokens_per_second") == pytest.approx(2)
