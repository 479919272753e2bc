import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import end_to_end
import pytest

TINY = ["--shape", "tiny", "--epochs", "2", "--sequences", "2", "--sequence_length", "16"]
TINY += ["--dtype", "float32", "--threads", "1", "--device", "cpu"]


def test_table_plot_and_json(
    in_this_process: None, results: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    before = dict(os.environ)
    end_to_end.main([*TINY, "--runs", "ft,expected", "--output", str(tmp_path)])
    cells = results("end_to_end")["cells"]
    assert [cell["run"] for cell in cells] == ["ft", "expected"]
    assert [cell.get("reason") for cell in cells] == [None, None]
    assert cells[0]["seconds_of_ft"] == 1.0
    assert all(cell["peak_bytes_of_ft"] > 0 for cell in cells)
    assert dict(os.environ) == before


def test_memory_compares_expected_embeddings_with_finetuning() -> None:
    arguments = end_to_end.parsed([*TINY, "--memory"])
    assert (arguments.adapters, arguments.runs) == (["lora"], ["ft", "expected"])


def test_an_expected_embedding_of_a_trained_head_is_refused(in_this_process: None) -> None:
    arguments = end_to_end.parsed([*TINY, "--runs", "expected"])
    ((cell,),) = end_to_end.cells_of(end_to_end.settings(arguments, "full"), 1)
    assert cell["reason"] == "an expected embedding needs a frozen output head"


def test_what_is_stopped_leaves_what_it_has_measured(
    in_this_process: None,
    results: Callable[[str], dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def measured(setting: end_to_end.Setting) -> dict[str, float]:
        if setting.run != "ft":
            raise KeyboardInterrupt
        return {"seconds": 1.0, "peak_bytes": 1.0}

    monkeypatch.setattr(end_to_end, "measured", measured)
    with pytest.raises(KeyboardInterrupt):
        end_to_end.main([*TINY, "--runs", "ft,hidden", "--output", str(tmp_path)])
    cells = results("end_to_end")["cells"]
    assert [cell.get("reason") for cell in cells] == [None, "not measured yet"]
