from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import loss
import pytest
import torch
from peers import LOSSES, Inputs, Loss


def test_table_plot_and_json_of_one_cell(
    in_this_process: None, results: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    options = ["--tokens", "32", "--vocabulary", "64", "--hidden", "8", "--rounds", "1"]
    options += ["--losses", "plain torch", "--threads", "1", "--device", "cpu"]
    loss.main([*options, "--output", str(tmp_path)])
    cells = results("loss")["cells"]
    measured = {(c["loss"], c["objective"]): c for c in cells if "reason" not in c}
    names = {("minifinetuning", o) for o in ("MFT", "FT")} | {
        ("plain torch", o) for o in ("MFT", "FT")
    }
    assert set(measured) == names
    assert all("peak_bytes" in cell for cell in measured.values())
    reasons = {c["loss"]: c["reason"] for c in cells if "reason" in c}
    assert reasons == {"minifinetuning, fused": "runs on CUDA only"}
    assert "runs on CUDA only" in (tmp_path / "loss.md").read_text()


def test_several_sizes_are_a_cross_and_with_grid_all(tmp_path: Path) -> None:
    sizes = ["--tokens", "1", "2", "3", "--vocabulary", "4", "5", "--device", "cpu"]
    found = [(case.tokens, case.vocabulary) for case in loss.cases(loss.parsed(sizes))]
    assert found == [(1, 4), (2, 4), (2, 5), (3, 4)]
    assert len(loss.cases(loss.parsed([*sizes, "--grid"]))) == 6


def test_a_peer_that_is_not_installed_stands_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: Inputs) -> torch.Tensor:
        raise ModuleNotFoundError("No module named 'peer'")

    absent = Loss("a peer", "MFT", missing)
    monkeypatch.setattr(loss, "LOSSES", [LOSSES[0], absent])
    case = loss.Case(4, 8, 2, "cpu", torch.float32)
    timings, figures = loss.measured(case, [0, 1], 1)
    assert figures == {}  # on a CPU memory is measured in a process of its own
    assert list(timings.seconds) == ["0"]
    cell = loss._cell(case, 1, timings, timings.failures["1"])
    reason = "ModuleNotFoundError: No module named 'peer'"
    assert loss.table_row(cell, False) == ["4 x 8", "MFT", "a peer", reason]


@pytest.mark.parametrize("objective", ["MFT", "FT"])
def test_plain_torch_is_the_same_loss_as_ours(objective: str) -> None:
    """Two implementations written apart, the one from the paper's formula."""
    case = loss.Case(64, 96, 16, "cpu", torch.float32)
    found = {}
    for item in LOSSES:
        if item.objective == objective and item.name in ("minifinetuning", "plain torch"):
            inputs = case.inputs()
            favourites = (inputs.teacher_hidden @ inputs.teacher_weight.T).argmax(1)
            inputs.labels[::2] = favourites[::2]  # the teacher is right on half of the tokens
            value = item.function(inputs)
            value.backward()
            found[item.name] = (value.detach(), inputs.hidden.grad, inputs.weight.grad)
    torch.testing.assert_close(found["minifinetuning"], found["plain torch"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("fused", "ratio"), [([1.0, 1.0], 3.0), ([], 0.6)])
def test_a_loss_is_compared_with_our_fused_one_where_it_ran(
    fused: list[float], ratio: float
) -> None:
    keys = {(o.name, o.objective): str(key) for key, o in enumerate(LOSSES)}
    seconds = {
        keys["minifinetuning", "MFT"]: [[9.0, 1.0]],
        keys["plain torch", "MFT"]: [[4.0, 2.0]],
    }
    if fused:
        seconds[keys["minifinetuning, fused", "MFT"]] = [fused]
    case = loss.Case(1, 2, 3, "cuda", torch.float32)
    (cell,) = [
        loss._cell(case, key, harness.Timings(seconds), None)
        for key, other in enumerate(LOSSES)
        if (other.name, other.objective) == ("plain torch", "MFT")
    ]
    assert cell["of_ours"] == ratio


def test_a_loss_that_this_torch_lacks_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.nn, "LinearCrossEntropyOptions", raising=False)
    monkeypatch.setattr(torch, "__version__", "2.11.0+cu130")
    (key,) = [k for k, o in enumerate(LOSSES) if o.name == "torch linear_cross_entropy"]
    inputs = loss.Case(4, 8, 4, "cpu", torch.float32).inputs()
    with pytest.raises(harness.NotMeasuredError, match=r"^torch 2\.11\.0 does not have it$"):
        LOSSES[key].function(inputs)
