"""Text that a model writes itself: tokens a second, beside a plain loop.

    taskset -c 1 python benchmarks/writing.py --threads 1

The plain loop keeps 32 sequences in transformers' own cache, joined anew for each token, multiplies
in the weights' dtype, and draws by `torch.multinomial`.
"""

import argparse
import statistics
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING, Any

import harness
import torch
from reports import BLUE, Report, common_options, finish, options_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure
    from transformers import PreTrainedModel

PLAIN, OURS = "plain loop", "ours"


def plain_loop(model: "PreTrainedModel", count: int, length: int) -> torch.Tensor:
    """(count, length): each token by one forward, a float32 softmax and `torch.multinomial`."""
    from minifinetuning.models.causal import causal_model, evaluating, output_head

    inner, head = causal_model(model), output_head(model).detached()
    tokens = torch.zeros(count, length, dtype=torch.long, device=inner.device)
    past = None
    with evaluating(model):
        for position in range(length - 1):
            outputs = inner.get_decoder()(
                input_ids=tokens[:, position : position + 1], past_key_values=past, use_cache=True
            )
            past = outputs.past_key_values
            probabilities = torch.softmax(head.logits(outputs.last_hidden_state[:, -1]), 1)
            tokens[:, position + 1] = torch.multinomial(probabilities, 1)[:, 0]
    return tokens


def our_loop(model: "PreTrainedModel", count: int, length: int, bf16: bool) -> torch.Tensor:
    from minifinetuning.teacher.sampling import sampled_sequences

    uniforms = torch.rand(count, length - 1, dtype=torch.float64)
    return sampled_sequences(model, 0, uniforms, bf16=bf16, wrote=lambda _: None)


def cells_of(arguments: argparse.Namespace, bf16: bool) -> list[dict[str, Any]]:
    """Of each loop its tokens a second in every round, by the clock and by processor time."""
    model = loaded(arguments.model, arguments.device)
    length, counts = arguments.sequence_length, {PLAIN: arguments.plain, OURS: arguments.sequences}
    used: dict[str, list[float]] = {name: [] for name in counts}

    def part(name: str, loop: "Callable[[], torch.Tensor]") -> list["Callable[[], object]"]:
        def run() -> None:
            start = process_time()
            loop()
            used[name].append(process_time() - start)
            print(f"{name}: {used[name][-1]:.1f} s of processor time", flush=True)

        return [run]

    variants = {
        PLAIN: part(PLAIN, lambda: plain_loop(model, counts[PLAIN], length)),
        OURS: part(OURS, lambda: our_loop(model, counts[OURS], length, bf16)),
    }
    plain_loop(model, 2, 4), our_loop(model, 2, 4, bf16)
    timings = harness.interleaved(variants, arguments.rounds, arguments.device, warm_ups=0)
    cells: list[dict[str, Any]] = []
    for name, count in counts.items():
        if name in timings.failures:
            cells.append({"loop": name, "sequences": count, "reason": timings.failures[name]})
            continue
        tokens = count * (length - 1)
        by_clock = [tokens / sum(laps) for laps in timings.seconds[name]]
        by_processor = [tokens / seconds for seconds in used[name]]
        cells.append(
            {
                "loop": name,
                "sequences": count,
                "tokens_per_second": by_clock,
                "tokens_per_processor_second": by_processor,
            }
        )
    return cells


def loaded(name: str | None, device: str) -> "PreTrainedModel":
    """A model folder or hub id; the demonstration's SmolLM2-135M where none is named."""
    from minifinetuning.files import cache_folder
    from minifinetuning.lab.demo.model import converted_model
    from minifinetuning.models.loading import load_model

    folder = name or str(converted_model(cache_folder() / "demo"))
    model: Any = load_model(folder)
    return model.to(device)


def table_row(cell: dict[str, Any], plain: dict[str, Any]) -> list[str]:
    name = [cell["loop"]]
    if "reason" in cell:
        return [*name, cell["reason"]]
    row = [*name, f"{cell['sequences']}"]
    for of in ("tokens_per_second", "tokens_per_processor_second"):
        row.append(f"{statistics.median(cell[of]):.0f}")
        row.append("" if "reason" in plain else f"{times(cell, plain, of):.2f}")
    return row


def times(cell: dict[str, Any], plain: dict[str, Any], of: str) -> float:
    """How many times as fast as the plain loop, each within one round: the median."""
    pairs = zip(cell[of], plain[of], strict=True)
    return statistics.median(mine / theirs for mine, theirs in pairs)


def draw(figure: "Figure", cells: list[dict[str, Any]]) -> None:
    axes = figure.subplots()
    measured = [cell for cell in cells if "reason" not in cell]
    rates = [statistics.median(cell["tokens_per_processor_second"]) for cell in measured]
    axes.barh([cell["loop"] for cell in measured], rates, color=BLUE, height=0.6)
    axes.invert_yaxis()
    finish(axes, "Text that a model writes itself", "tokens a second of processor time")


def parsed(argv: list[str] | None) -> argparse.Namespace:
    parser = common_options(__doc__ or "")
    parser.add_argument("--model", help="a model folder or hub id; else the demo's SmolLM2-135M")
    parser.add_argument("--sequences", type=int, default=128, help="of ours, at the same time")
    parser.add_argument("--plain", type=int, default=32, help="of the plain loop")
    parser.add_argument("--sequence_length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    arguments = parsed(argv)
    torch.set_num_threads(arguments.threads)
    dtype = harness.products_dtype(arguments.dtype, arguments.device)
    cells = cells_of(arguments, dtype == torch.bfloat16)
    plain = cells[0]
    name = Path(arguments.model).name if arguments.model else "SmolLM2-135M-Instruct"
    report = Report(
        name=arguments.name or "writing",
        title="How fast a model writes",
        text=(
            f"{name}, sequences of {arguments.sequence_length} tokens at temperature 1, without "
            f"cuts; products of ours in {harness.dtype_name(dtype)}. Medians of "
            f"{arguments.rounds} rounds; processor time leaves out what other programs took."
        ),
        header=[
            *("loop", "sequences at a time", "tokens/s", "times plain"),
            *("tokens/s of processor time", "times plain"),
        ],
        rows=[table_row(cell, plain) for cell in cells],
        words=1,
        notes=[],
        options=options_of(arguments) | {"model": name},
        cells=cells,
        draw=lambda figure: draw(figure, cells),
        figure_size=(8, 2.4),
    )
    print(report.write(arguments.output))


if __name__ == "__main__":
    main()
