from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import pytest
import step
import torch


def test_table_plot_and_json(
    in_this_process: None, results: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    options = ["--shape", "tiny", "--rounds", "1", "--sequence_length", "16", "--sequences", "2"]
    options += ["--per_pass", "1", "--dtype", "float32", "--threads", "1", "--device", "cpu"]
    step.main([*options, "--output", str(tmp_path)])
    cells = results("step")["cells"]
    assert len(cells) == 2 * 4
    without = [cell for cell in cells if "reason" in cell]
    assert [(c["adapter"], c["variant"]) for c in without] == [("full", "expected")]
    assert all(cell["ratio"]["median"] > 0 for cell in cells if "ratio" in cell)


def test_every_variant_of_mft_takes_the_same_step() -> None:
    """What is remembered of the teacher changes the time of a step, not its result."""
    changed = {}
    for teacher in ("none", "hidden", "expected"):
        setting = step.Setting("tiny", "lora", 2, 1, 16, "cpu", torch.float32)
        stepper = step.Stepper(setting)
        stepper.optimizer = torch.optim.SGD(stepper.optimizer.param_groups[0]["params"], lr=1.0)
        stepper.minifinetuning(teacher)()
        weights = [p.detach().flatten() for p in stepper.model.parameters() if p.requires_grad]
        changed[teacher] = torch.cat(weights)
    torch.testing.assert_close(changed["hidden"], changed["none"])
    torch.testing.assert_close(changed["expected"], changed["none"], rtol=1e-4, atol=1e-6)


def test_a_model_too_large_is_skipped_with_the_reason(monkeypatch: Any) -> None:
    import harness

    monkeypatch.setattr(harness, "available_memory", lambda device: 2**20)
    monkeypatch.setattr(harness, "in_fresh_process", lambda function, *args: function(*args))
    setting = step.Setting("llama1b", "full", 1, 1, 1024, "cpu", torch.float32)
    cells = step.cells_of(setting, 1)
    assert {cell["variant"] for cell in cells if "predicted to need" in cell["reason"]} == {
        "ft",
        "none",
        "hidden",
    }


def test_what_is_stopped_leaves_what_it_has_measured(
    in_this_process: None,
    results: Callable[[str], dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def measured(setting: step.Setting, rounds: int) -> harness.Timings:
        if setting.adapter == "lora":
            raise KeyboardInterrupt
        return harness.Timings({name: [[1.0]] for name in ("ft", "none", "hidden")})

    monkeypatch.setattr(step, "measured", measured)
    options = ["--shape", "tiny", "--dtype", "float32", "--device", "cpu"]
    with pytest.raises(KeyboardInterrupt):
        step.main([*options, "--output", str(tmp_path)])
    assert {cell["adapter"] for cell in results("step")["cells"]} == {"full"}
