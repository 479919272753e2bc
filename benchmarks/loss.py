"""The loss alone: hidden states and output heads in, loss and gradients out, beside peers.

Random inputs, the head trained. `--tokens` and `--vocabulary` take several values each: they are
measured as a cross (each value of one with the lower middle of the other), or with `--grid` all.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import harness
import torch
from bandwidth import copy_bandwidth, kernel_seconds, moved_bytes
from loss_pictures import draw
from peers import LOSSES, Inputs, Loss
from reports import Report, common_options, gibibytes, options_of, seconds

_SMALL = (64, 256)  # tokens and vocabulary


@dataclass(frozen=True)
class Case:
    """N tokens, V entries of vocabulary, H hidden units."""

    tokens: int
    vocabulary: int
    hidden: int
    device: str
    dtype: torch.dtype

    def inputs(self) -> Inputs:
        """Normal hidden states, and heads of a scale that gives logits a deviation of one."""
        torch.manual_seed(0)
        states, heads = (self.tokens, self.hidden), (self.vocabulary, self.hidden)
        options: dict[str, Any] = {"device": self.device}
        scale = self.hidden**-0.5
        return Inputs(
            hidden=torch.randn(states, **options).requires_grad_(),
            weight=torch.randn(heads, **options).mul_(scale).requires_grad_(),
            teacher_hidden=torch.randn(states, **options),
            teacher_weight=torch.randn(heads, **options).mul_(scale),
            labels=torch.randint(self.vocabulary, (self.tokens,), **options),
        )

    def predicted_bytes(self, loss: Loss) -> int:
        """The inputs with their gradients in float32, the logits, and 1 GiB of chunks."""
        inputs = 4 * 3 * self.hidden * (self.tokens + self.vocabulary)
        return inputs + loss.logit_bytes * self.tokens * self.vocabulary + 2**30


def parts(case: Case, loss: Loss, inputs: Inputs) -> tuple[Callable[[], None], Callable[[], None]]:
    """Forward and backward, as two calls."""
    held: list[torch.Tensor] = []

    def forward() -> None:
        inputs.hidden.grad = inputs.weight.grad = None
        with harness.autocast(case.device, case.dtype):
            held.append(loss.function(inputs))

    def backward() -> None:
        held.pop().backward()

    return forward, backward


Figures = dict[str, Any]
"""Peak memory, and where a loss is fused its bandwidth; or the reason for none."""


def measured(
    case: Case, keys: Sequence[int], rounds: int
) -> tuple[harness.Timings, dict[int, Figures]]:
    """Seconds of forward and backward of the losses of these indices, side by side.

    On a GPU their figures too: what its allocator counts does not depend on what was done before.
    """
    inputs = case.inputs()
    variants = {str(key): parts(case, LOSSES[key], inputs) for key in keys}
    timings = harness.interleaved(variants, rounds, case.device)
    on_gpu = case.device != "cpu"
    return timings, {int(key): figures(case, int(key)) for key in timings.seconds if on_gpu}


def figures(case: Case, key: int) -> Figures:
    found: Figures = {}
    try:
        found["peak_bytes"] = measured_peak(case, key)
        if LOSSES[key].is_fused:
            found["of_copy_bandwidth"] = measured_bandwidth(case, key)
    except Exception as error:  # whatever a peer raises is its row in the table
        found["memory_reason"] = harness.reason(error)
    return found


def measured_peak(case: Case, key: int) -> int:
    """Bytes that forward and backward take above the inputs; gradients are counted."""
    run_small(case, LOSSES[key])
    inputs = case.inputs()
    return harness.peak_memory(lambda: run(case, LOSSES[key], inputs), case.device)


def measured_bandwidth(case: Case, key: int) -> float:
    """Bytes a second that a fused loss moves in its own kernels, as a share of a plain copy's."""
    loss, inputs = LOSSES[key], case.inputs()
    run(case, loss, inputs)
    taken = kernel_seconds(lambda: run(case, loss, inputs))
    sides = 2 if loss.objective == "MFT" else 1
    moved = moved_bytes(case.tokens, case.vocabulary, sides, case.dtype)
    return moved / taken / copy_bandwidth(case.device)


def run_small(case: Case, loss: Loss) -> None:
    """A few tokens first: what libraries take when they are loaded is not the loss's memory."""
    small = replace(case, tokens=_SMALL[0], vocabulary=_SMALL[1])
    run(small, loss, small.inputs())


def run(case: Case, loss: Loss, inputs: Inputs) -> None:
    for part in parts(case, loss, inputs):
        part()


def cells_of(case: Case, rounds: int, chosen: Sequence[str]) -> list[dict[str, Any]]:
    """One record a loss: seconds of each round and peak memory; or the reason for none."""
    reasons: dict[int, str] = {}
    keys = [key for key, loss in enumerate(LOSSES) if _is_among(loss, chosen)]
    for key in keys:
        try:
            if LOSSES[key].needs_cuda and case.device != "cuda":
                raise harness.NotMeasuredError("runs on CUDA only")
            harness.require_memory(case.predicted_bytes(LOSSES[key]), case.device)
        except harness.NotMeasuredError as error:
            reasons[key] = harness.reason(error)
    timed = [key for key in keys if key not in reasons]
    known: dict[int, Figures] = {}
    try:
        timings, known = harness.in_fresh_process(measured, case, timed, rounds)
    except Exception as error:  # not even the inputs could be made
        timings = harness.Timings(failures=dict.fromkeys(map(str, timed), harness.reason(error)))
    reasons |= {int(key): text for key, text in timings.failures.items()}
    for key in timings.seconds:
        if int(key) not in known:
            known[int(key)] = _figures_of_its_own(case, int(key))
    return [_cell(case, key, timings, reasons.get(key)) | known.get(key, {}) for key in keys]


def _figures_of_its_own(case: Case, key: int) -> Figures:
    try:
        found: Figures = harness.in_fresh_process(figures, case, key)
    except harness.NotMeasuredError as error:
        found = {"memory_reason": harness.reason(error)}
    return found


def _is_among(loss: Loss, chosen: Sequence[str]) -> bool:
    """Whether a name was chosen, or the beginning of it; ours are always there to compare with."""
    return loss.is_ours or any(loss.name.startswith(name) for name in chosen)


def _cell(case: Case, key: int, timings: harness.Timings, reason: str | None) -> dict[str, Any]:
    loss = LOSSES[key]
    cell: dict[str, Any] = {"loss": loss.name, "objective": loss.objective}
    cell |= {name: value for name, value in asdict(case).items() if isinstance(value, int)}
    if reason is not None:
        return cell | {"reason": reason}
    laps = timings.seconds[str(key)]
    cell |= {"forward": [lap[0] for lap in laps], "backward": [lap[1] for lap in laps]}
    ours = _ours(loss, timings)
    if ours is not None:
        cell["of_ours"] = timings.ratio(str(key), ours)[0]
    return cell


def _ours(loss: Loss, timings: harness.Timings) -> str | None:
    """The loss of ours that another is compared with: the fused one where it was measured."""
    measured = [
        key
        for key, own in enumerate(LOSSES)
        if own.is_ours and own.objective == _counterpart(loss) and str(key) in timings.seconds
    ]
    return str(max(measured, key=lambda key: LOSSES[key].is_fused)) if measured else None


def _counterpart(loss: Loss) -> str:
    """The objective of ours that a loss is compared with: distillation with MFT."""
    return "FT" if loss.objective == "FT" else "MFT"


def cases(arguments: argparse.Namespace) -> list[Case]:
    dtype = harness.products_dtype(arguments.dtype, arguments.device)
    tokens, vocabularies = arguments.tokens, arguments.vocabulary
    middle = tokens[(len(tokens) - 1) // 2], vocabularies[(len(vocabularies) - 1) // 2]
    return [
        Case(n, v, arguments.hidden, arguments.device, dtype)
        for n in tokens
        for v in vocabularies
        if arguments.grid or n == middle[0] or v == middle[1]
    ]


def table_row(cell: dict[str, Any], with_bandwidth: bool) -> list[str]:
    size = f"{cell['tokens']:,} x {cell['vocabulary']:,}"
    name = [size, cell["objective"], cell["loss"]]
    if "reason" in cell:
        return [*name, cell["reason"]]
    full = [sum(laps) for laps in zip(cell["forward"], cell["backward"], strict=True)]
    times = [seconds(statistics.median(laps)) for laps in (cell["forward"], cell["backward"], full)]
    ratio = f"{cell['of_ours']:.2f}" if "of_ours" in cell else "-"
    peak = cell.get("memory_reason") or gibibytes(cell["peak_bytes"])
    row = [*name, *times, ratio, peak]
    share = cell.get("of_copy_bandwidth")
    return [*row, "-" if share is None else f"{share:.0%}"] if with_bandwidth else row


def parsed(argv: list[str] | None) -> argparse.Namespace:
    parser = common_options(__doc__ or "")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096, 8192, 32768])
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[32000, 49152, 128256, 256000])
    parser.add_argument("--hidden", type=int, help="units; 576, and on CUDA 2048")
    parser.add_argument("--grid", action="store_true", help="all pairs, in place of a cross")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--losses",
        nargs="+",
        default=[""],
        metavar="NAME",
        help="beside ours: all, or those whose names begin so, like ModelOpt 'Liger chunked'",
    )
    arguments = parser.parse_args(argv)
    arguments.hidden = arguments.hidden or (576 if arguments.device == "cpu" else 2048)
    return arguments


def main(argv: list[str] | None = None) -> None:
    arguments = parsed(argv)
    torch.set_num_threads(arguments.threads)
    cells: list[dict[str, Any]] = []
    table = ""
    for case in cases(arguments):
        print(f"{case.tokens:,} tokens x {case.vocabulary:,} …", flush=True)
        cells += cells_of(case, arguments.rounds, arguments.losses)
        # A long sweep that is stopped leaves what it has measured.
        table = report_of(arguments, cells).write(arguments.output)
    print(table)


def report_of(arguments: argparse.Namespace, cells: list[dict[str, Any]]) -> Report:
    on_gpu = arguments.device == "cuda"
    dtype = harness.dtype_name(harness.products_dtype(arguments.dtype, arguments.device))
    header = ["tokens x vocabulary", "objective", "loss", "forward", "backward", "full"]
    header += ["full / ours", "peak memory"] + (["of copy bandwidth"] if on_gpu else [])
    return Report(
        name=arguments.name or "loss",
        title="The loss alone, beside peers",
        text=(
            f"Hidden states (N, {arguments.hidden}) and heads in, loss and gradients out, the head "
            f"trained; inputs in float32, products in {dtype}. Medians of {arguments.rounds} "
            "interleaved rounds; `full / ours` is the median of the ratios within a round, to our "
            f"{'fused ' if on_gpu else ''}loss of the same kind. Peak memory is what is "
            "taken above the inputs, each loss in a process of its own; the gradients are in it."
        ),
        header=header,
        rows=[table_row(cell, on_gpu) for cell in cells],
        words=3,
        notes=_notes(arguments.device),
        options=options_of(arguments),
        cells=cells,
        draw=lambda figure: draw(figure, cells),
        figure_size=(11, 5.2),
    )


def _notes(device: str) -> list[str]:
    notes = [
        "MFT: minifinetuning's corrected targets; JSD: Jensen-Shannon divergence to the teacher, "
        "CE: cross-entropy with the labels; FT: cross-entropy alone",
        "plain torch and ModelOpt hold logits of (N, V) for student and teacher, as does TRL's GKD",
    ]
    if device == "cuda":
        gigabytes = copy_bandwidth(device) / 1e9
        notes.append(
            "minifinetuning that is not fused is what runs where Triton cannot be imported: its "
            "products are in float32"
        )
        notes.append(
            f"a copy moves {gigabytes:,.0f} GB/s here (read and written); for the bandwidth of the "
            "fused loss's kernels each side's float32 logits are counted as read twice, and their "
            "gradient as written once"
        )
    return notes


if __name__ == "__main__":
    main()
