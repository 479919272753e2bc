from collections.abc import Callable
from pathlib import Path
from typing import Any

import growth
import pytest


def test_table_plot_and_json(
    in_this_process: None, results: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    sizes = ["--tokens", "8", "16", "--vocabulary", "32", "64", "--sequence_length", "8", "16"]
    options = ["--documents", "32", "64", "--hidden", "8", "--shape", "tiny", "--rounds", "1"]
    options += ["--dtype", "float32", "--threads", "1", "--device", "cpu"]
    growth.main([*sizes, *options, "--output", str(tmp_path)])
    cells = results("growth")["cells"]
    assert [cell["sweep"] for cell in cells] == list(growth.SWEEPS)
    assert [cell.get("reason") for cell in cells] == [None] * 4
    assert all(len(cell["points"]) == 2 for cell in cells)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_the_exponent_of_an_exact_power_law_is_found(exponent: float) -> None:
    values = [3, 10, 40, 1000]
    results = [0.7 * value**exponent for value in values]
    assert growth.fitted_exponent(values, results) == pytest.approx(exponent, abs=1e-12)


def test_what_cannot_be_measured_keeps_the_points_before_it(
    in_this_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_above_one(value: int, options: object) -> dict[str, float]:
        if value > 1:
            raise MemoryError("too large")
        return {"seconds": 1.0, "peak_bytes": 2.0}

    monkeypatch.setitem(growth.SWEEPS, "tokens", (fail_above_one, "the loss"))
    cell = growth.cell_of("tokens", [1, 2], None)  # type: ignore[arg-type]
    assert cell["points"] == [{"value": 1, "seconds": 1.0, "peak_bytes": 2.0}]
    assert growth.table_row(cell)[-1] == "MemoryError: too large"


def test_what_grows_is_the_loss_that_the_device_would_take() -> None:
    assert [growth._loss_on(device).is_fused for device in ("cpu", "cuda")] == [False, True]
