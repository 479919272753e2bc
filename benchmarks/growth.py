"""Time and peak memory as tokens, vocabulary, sequences and the corpus grow, with exponents.

An exponent of 1 is growth in proportion, 0 none. Every point has a process of its own.
"""

import argparse
import json
import math
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
import torch
from loss import Case, run, run_small
from peers import LOSSES, Loss
from reports import (
    BLUE,
    FAINT,
    Report,
    common_options,
    finish,
    finish_log_axis,
    gibibytes,
    options_of,
    seconds,
)
from shapes import SHAPES
from step import Setting, Stepper

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from transformers import PreTrainedTokenizerFast

_DOCUMENT_WORDS = 400
_WORDS = 2000


@dataclass(frozen=True)
class Options:
    """What stays the same while one quantity grows."""

    device: str
    dtype: torch.dtype
    rounds: int
    hidden: int
    tokens: int
    vocabulary: int
    shape: str


def of_loss(tokens: int, vocabulary: int, options: Options) -> dict[str, float]:
    """The loss of MFT with gradients, on hidden states of student and teacher."""
    case = Case(tokens, vocabulary, options.hidden, options.device, options.dtype)
    ours = _loss_on(options.device)
    run_small(case, ours)
    inputs = case.inputs()
    return measured(lambda: run(case, ours, inputs), options)


def _loss_on(device: str) -> Loss:
    """MFT by the implementation that `auto` would take there."""
    fused = device == "cuda"
    return next(o for o in LOSSES if o.is_ours and o.objective == "MFT" and o.is_fused == fused)


def of_tokens(value: int, options: Options) -> dict[str, float]:
    return of_loss(value, options.vocabulary, options)


def of_vocabulary(value: int, options: Options) -> dict[str, float]:
    return of_loss(options.tokens, value, options)


def of_sequence_length(value: int, options: Options) -> dict[str, float]:
    """A whole step of MFT with LoRA on one sequence, the teacher's hidden states at hand."""
    setting = Setting(options.shape, "lora", 1, 1, value, options.device, options.dtype)
    step = Stepper(setting).minifinetuning("hidden")
    return measured(step, options)


def of_corpus(value: int, options: Options) -> dict[str, float]:
    """Reading, tokenizing, splitting and packing a table of `value` documents."""
    from minifinetuning import read_corpus

    tokenizer = _tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "documents.jsonl"
        with table.open("w") as file:
            file.writelines(json.dumps({"text": _document(n)}) + "\n" for n in range(value))

        def read() -> None:
            with harness.empty_caches():
                read_corpus([str(table)], tokenizer, sequence_length=1024, train_tokens=10**12)

        return measured(read, options)


def measured(function: Callable[[], object], options: Options) -> dict[str, float]:
    """Bytes at the first call's peak above what was held; median seconds of the calls after it."""
    peak = harness.peak_memory(function, options.device)
    laps = [harness.timed([function], options.device)[0] for _ in range(options.rounds)]
    return {"seconds": statistics.median(laps), "peak_bytes": peak}


SWEEPS: dict[str, tuple[Callable[[int, Options], dict[str, float]], str]] = {
    "tokens": (of_tokens, "the loss"),
    "vocabulary": (of_vocabulary, "the loss"),
    "sequence_length": (of_sequence_length, "a whole step, LoRA"),
    "documents": (of_corpus, "reading and packing"),
}


def fitted_exponent(values: Sequence[float], results: Sequence[float]) -> float:
    """The b of results = a * values ** b, by least squares on their logarithms."""
    x, y = [math.log(value) for value in values], [math.log(result) for result in results]
    return statistics.linear_regression(x, y).slope


def _document(number: int) -> str:
    source = random.Random(number)
    return " ".join(f"word{source.randrange(_WORDS)}" for _ in range(_DOCUMENT_WORDS))


def _tokenizer() -> "PreTrainedTokenizerFast":
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(unk_token=None))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([_document(-1), _document(-2)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


def cell_of(name: str, values: Sequence[int], options: Options) -> dict[str, Any]:
    """A sweep's points and its two exponents; or the reason for none."""
    function, _ = SWEEPS[name]
    points: list[dict[str, float]] = []
    for value in values:
        print(f"{name.replace('_', ' ')} {value:,} …", flush=True)
        try:
            found = harness.in_fresh_process(function, value, options)
        except Exception as error:  # what fits is kept, and the reason said
            return {"sweep": name, "points": points, "reason": harness.reason(error)}
        points.append({"value": value, **found})
    cell: dict[str, Any] = {"sweep": name, "points": points}
    for of in ("seconds", "peak_bytes"):
        fitted = [max(point[of], 1) if of == "peak_bytes" else point[of] for point in points]
        cell[f"{of}_exponent"] = fitted_exponent(list(values), fitted)
    return cell


def table_row(cell: dict[str, Any]) -> list[str]:
    name = [cell["sweep"].replace("_", " "), SWEEPS[cell["sweep"]][1]]
    if "reason" in cell:
        return [*name, cell["reason"]]
    first, last = cell["points"][0], cell["points"][-1]
    return [
        *name,
        f"{first['value']:,} to {last['value']:,}",
        f"{seconds(first['seconds'])} to {seconds(last['seconds'])}",
        f"{cell['seconds_exponent']:.2f}",
        f"{gibibytes(first['peak_bytes'])} to {gibibytes(last['peak_bytes'])}",
        f"{cell['peak_bytes_exponent']:.2f}",
    ]


def draw(figure: "Figure", cells: list[dict[str, Any]]) -> None:
    """A column for each sweep: time above, peak memory below, and the line of the exponent."""
    grid = figure.subplots(2, len(cells), squeeze=False, sharex="col")
    for column, cell in zip(grid.T, cells, strict=True):
        above, below = column
        name = cell["sweep"].replace("_", " ")
        _draw_panel(above, cell, "seconds", 1.0)
        _draw_panel(below, cell, "peak_bytes", 2.0**20)
        finish(above, name.capitalize(), _note(cell, "seconds"))
        finish(below, " ", _note(cell, "peak_bytes"))
        below.set_xlabel(name)
    grid[0][0].set_ylabel("seconds")
    grid[1][0].set_ylabel("peak memory, MiB")


def _note(cell: dict[str, Any], of: str) -> str:
    what = SWEEPS[cell["sweep"]][1]
    exponent = cell.get(f"{of}_exponent")
    return what if exponent is None else f"{what}: exponent {exponent:.2f}"


def _draw_panel(axes: "Axes", cell: dict[str, Any], of: str, unit: float) -> None:
    values = [point["value"] for point in cell["points"]]
    results = [max(point[of], 1e-9) / unit for point in cell["points"]]
    exponent = cell.get(f"{of}_exponent")
    if exponent is not None:
        middle = math.exp(statistics.fmean(map(math.log, results)))
        centre = math.exp(statistics.fmean(map(math.log, values)))
        line = [middle * (value / centre) ** exponent for value in values]
        axes.plot(values, line, color=FAINT, linewidth=5, solid_capstyle="round")
    axes.plot(values, results, "o-", color=BLUE, markersize=4.5, linewidth=1.4)
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(values, [_short(value) for value in values], fontsize=8.5)
    axes.xaxis.minorticks_off()
    finish_log_axis(axes.yaxis)


def _short(value: int) -> str:
    return f"{value / 1024:g}k" if value >= 1024 and value % 1024 == 0 else f"{value:,}"


def parsed(argv: list[str] | None) -> argparse.Namespace:
    parser = common_options(__doc__ or "")
    sizes: dict[str, Any] = {"type": int, "nargs": "+"}
    parser.add_argument("--tokens", **sizes, default=[1024, 2048, 4096, 8192, 16384])
    parser.add_argument("--vocabulary", **sizes, default=[16384, 32768, 65536, 131072, 262144])
    parser.add_argument("--sequence_length", **sizes, default=[256, 512, 1024, 2048])
    parser.add_argument("--documents", **sizes, default=[512, 1024, 2048, 4096, 8192])
    parser.add_argument("--hidden", type=int, default=576, help="units, in the loss")
    parser.add_argument("--shape", choices=SHAPES, default="smollm2", help="of the whole step")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args(argv)


def _text(options: Options) -> str:
    shape, dtype = SHAPES[options.shape].title, harness.dtype_name(options.dtype)
    return (
        f"MFT with products in {dtype}. Tokens and vocabulary: the loss alone with gradients, "
        f"hidden size {options.hidden}, at a vocabulary of {options.vocabulary:,} and at "
        f"{options.tokens:,} tokens. Sequence length: a whole step of {shape} with LoRA on one "
        "sequence, the teacher's hidden states cached. Documents: `read_corpus` on a table of "
        f"documents of {_DOCUMENT_WORDS} words, on the CPU. Times are medians of {options.rounds}; "
        "peak memory is what is taken above the inputs. Exponents are fitted by least squares on "
        "logarithms: 1 is growth in proportion."
    )


def main(argv: list[str] | None = None) -> None:
    arguments = parsed(argv)
    torch.set_num_threads(arguments.threads)
    dtype = harness.products_dtype(arguments.dtype, arguments.device)
    options = Options(
        device=arguments.device,
        dtype=dtype,
        rounds=arguments.rounds,
        hidden=arguments.hidden,
        tokens=min(arguments.tokens, key=lambda tokens: abs(math.log(tokens / 2048))),
        vocabulary=min(arguments.vocabulary, key=lambda size: abs(math.log(size / 32768))),
        shape=arguments.shape,
    )
    cells = [cell_of(name, getattr(arguments, name), options) for name in SWEEPS]
    report = Report(
        name=arguments.name or "growth",
        title="How time and memory grow",
        text=_text(options),
        header=["what grows", "in", "sizes", "time", "exponent", "peak memory", "exponent"],
        rows=[table_row(cell) for cell in cells],
        words=2,
        notes=[],
        options=options_of(arguments),
        cells=cells,
        draw=lambda figure: draw(figure, cells),
        figure_size=(13, 6),
    )
    print(report.write(arguments.output))


if __name__ == "__main__":
    main()
