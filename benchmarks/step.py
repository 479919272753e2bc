"""A whole training step of MFT, by what is remembered of the teacher, relative to finetuning (FT).

A step is forward, backward and fused AdamW, as MFTTrainer does them, without reading data.
"""

import argparse
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import harness
import torch
from arithmetic import Adapter, arithmetic_limit
from reports import BLUE, GREY, ORANGE, Report, common_options, finish, options_of, seconds
from shapes import SHAPES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


TEACHERS = ("none", "hidden", "expected")
ADAPTERS: dict[Adapter, str] = {
    "full": "full",
    "frozen_head": "full, frozen head",
    "lora": "LoRA, rank 8",
}
LABELS = {
    "ft": "FT",
    "expected": "MFT, expected embeddings cached",
    "hidden": "MFT, hidden states cached",
    "none": "MFT, no cache",
}

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Setting:
    """What a step is taken of: `sequences` of T tokens, `per_pass` of them a forward pass."""

    shape: str
    adapter: Adapter
    sequences: int
    per_pass: int
    sequence_length: int
    device: str
    dtype: torch.dtype

    def predicted_bytes(self) -> int:
        """Weights, gradients and moments in float32, a teacher, activations, and 1 GiB of loss."""
        shape = SHAPES[self.shape]
        # Full finetuning: weight, gradient, two moments and the teacher's weight.
        tensors = 1 if self.adapter == "lora" else 5
        per_token = shape.layers * (36 * shape.hidden + 8 * shape.intermediate)
        activations = self.per_pass * self.sequence_length * per_token
        return 4 * tensors * shape.parameters + activations + 2**30

    def teachers(self) -> tuple[str, ...]:
        """An expected embedding is exact for a frozen head only."""
        return TEACHERS[:-1] if self.adapter == "full" else TEACHERS


class Stepper:
    """A model with its optimizer, and what its teacher says of fixed random batches."""

    def __init__(self, setting: Setting) -> None:
        from minifinetuning.models.causal import causal_model
        from minifinetuning.models.student import attach_distillation
        from minifinetuning.teacher.live import teacher_of

        self.setting = setting
        self.model = _model(setting)
        self.teacher = teacher_of(self.model)
        attach_distillation(causal_model(self.model))
        self.model.train()
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
        self.batches = _batches(setting)

    def step(self, objective: str, outputs: Iterable[Any]) -> None:
        """Gradients of all batches, one for each of the teacher's `outputs`, and an update."""
        from minifinetuning.models.student import DistillationInputs
        from minifinetuning.objectives import rule

        tokens = self.setting.sequences * (self.setting.sequence_length - 1)
        for batch, teacher in zip(self.batches, outputs, strict=True):
            with harness.autocast(self.setting.device, self.setting.dtype):
                said = teacher() if callable(teacher) else teacher
                inputs = DistillationInputs(rule(objective), said)
                result = self.model(**batch, distillation=inputs)
            (result.loss / tokens).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def finetuning(self) -> None:
        self.step("ft", [None] * len(self.batches))

    def minifinetuning(self, teacher: str) -> Callable[[], None]:
        """The step with no cache ("none"), hidden states or expected embeddings at hand."""
        if teacher == "none":
            said: list[Any] = [lambda b=batch: self.teacher.outputs(b) for batch in self.batches]
        else:
            said = [self._remembered(batch, teacher) for batch in self.batches]
        return lambda: self.step("mft", said)

    def _remembered(self, batch: Batch, teacher: str) -> Any:
        """What a cache holds of a batch: vectors in the dtype of the products."""
        from minifinetuning.ops import TeacherStates, expected_embedding

        with torch.no_grad(), harness.autocast(self.setting.device, self.setting.dtype):
            states = self.teacher.outputs(batch)
            hidden = states.hidden.to(self.setting.dtype)
            if teacher == "hidden":
                return TeacherStates(hidden, states.head)
            labels = batch["labels"][:, 1:].flatten()
            expected = expected_embedding(hidden, states.head, labels)
            return replace(expected, embedding=expected.embedding.to(self.setting.dtype))

    def variants(self) -> dict[str, list[Callable[[], object]]]:
        """The parts of a step by variant, for `harness.interleaved`."""
        caches = self.setting.teachers()
        return {"ft": [self.finetuning]} | {name: [self.minifinetuning(name)] for name in caches}


def _model(setting: Setting) -> Any:
    model = SHAPES[setting.shape].model(setting.sequence_length, setting.device)
    if setting.adapter == "lora":
        from peft import get_peft_model

        from minifinetuning.models.adapters import adapter_config

        return get_peft_model(model, adapter_config("lora", model, rank=8))
    if setting.adapter == "frozen_head":
        model.get_output_embeddings().requires_grad_(False)
    return model


def _batches(setting: Setting) -> list[Batch]:
    """Random sequences, as the trainer hands them to the model."""
    from minifinetuning.data.batches import collate

    size = (setting.sequences, setting.sequence_length)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(SHAPES[setting.shape].vocabulary, size, generator=generator)
    tokens = tokens.to(setting.device)
    return [
        collate([{"input_ids": sequence} for sequence in part])
        for part in tokens.split(setting.per_pass)
    ]


def measured(setting: Setting, rounds: int) -> harness.Timings:
    """Seconds of every variant's steps, side by side in one process."""
    harness.require_memory(setting.predicted_bytes(), setting.device)
    return harness.interleaved(Stepper(setting).variants(), rounds, setting.device)


def cells_of(setting: Setting, rounds: int) -> list[dict[str, Any]]:
    """One record a variant: seconds of each round, ratio to FT, limit; or the reason for none."""
    try:
        timings = harness.in_fresh_process(measured, setting, rounds)
    except Exception as error:  # a model that does not fit is a row of the table, as any other
        timings = harness.Timings(failures=dict.fromkeys(LABELS, harness.reason(error)))
    found = []
    for variant in ("ft", *TEACHERS):
        cell: dict[str, Any] = {
            "shape": setting.shape,
            "adapter": setting.adapter,
            "variant": variant,
        }
        try:
            shape, length = SHAPES[setting.shape], setting.sequence_length
            cell["limit"] = arithmetic_limit(shape, setting.adapter, variant, length)
        except ValueError as error:
            found.append(cell | {"reason": str(error)})
            continue
        if variant in timings.failures or "ft" in timings.failures:
            reason = timings.failures.get(variant) or timings.failures["ft"]
            found.append(cell | {"reason": reason})
            continue
        median, lower, upper = timings.ratio(variant, "ft")
        cell["ratio"] = {"median": median, "lower": lower, "upper": upper}
        found.append(cell | {"seconds": [laps[0] for laps in timings.seconds[variant]]})
    return found


def table_row(cell: dict[str, Any]) -> list[str]:
    name = [SHAPES[cell["shape"]].title, ADAPTERS[cell["adapter"]], LABELS[cell["variant"]]]
    if "reason" in cell:
        return [*name, cell["reason"]]
    ratio = cell["ratio"]
    spread = f"{ratio['lower']:.3f} to {ratio['upper']:.3f}"
    step = seconds(statistics.median(cell["seconds"]))
    return [*name, step, f"{ratio['median']:.3f}", spread, f"{cell['limit']:.3f}"]


def draw(figure: "Figure", cells: list[dict[str, Any]]) -> None:
    """Ratios to FT as bars, one panel for each shape (down) and adapter (across)."""
    shapes = list(dict.fromkeys(cell["shape"] for cell in cells))
    adapters = list(dict.fromkeys(cell["adapter"] for cell in cells))
    grid = figure.subplots(len(shapes), len(adapters), squeeze=False, sharex=True, sharey=True)
    for row, shape in zip(grid, shapes, strict=True):
        for axes, adapter in zip(row, adapters, strict=True):
            own = [c for c in cells if (c["shape"], c["adapter"]) == (shape, adapter)]
            _draw_panel(axes, {cell["variant"]: cell for cell in own})
            note = "bar: median of the rounds, thin line: middle half, diamond: arithmetic"
            first = axes is grid[0][0]
            finish(axes, f"{SHAPES[shape].title}, {ADAPTERS[adapter]}", note if first else " ")
    for axes in grid[-1]:
        axes.set_xlabel("time of a step relative to FT  (lower is better ←)")


def _draw_panel(axes: "Axes", cells: dict[str, dict[str, Any]]) -> None:
    for height, variant in enumerate(reversed(LABELS)):
        cell = cells[variant]
        if "reason" in cell:
            text = "needs a frozen head" if "frozen" in cell["reason"] else "not measured"
            axes.text(0.02, height, text, va="center", color=GREY, fontsize=8.5)
            continue
        ratio = cell["ratio"]
        axes.barh(height, ratio["median"], 0.62, color=ORANGE if variant == "ft" else BLUE)
        axes.plot([ratio["lower"], ratio["upper"]], [height] * 2, color="black", linewidth=1.2)
        axes.plot(cell["limit"], height, "D", color="white", markeredgecolor="black", markersize=5)
        place = max(ratio["upper"], cell["limit"])
        axes.annotate(
            f"{ratio['median']:.2f}", (place, height), (7, 0), "data", "offset points", va="center"
        )
    axes.set_yticks(range(len(LABELS)), list(reversed(LABELS.values())))
    axes.axvline(1, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    axes.margins(x=0.18)


def settings(arguments: argparse.Namespace) -> list[Setting]:
    names = [name for name in SHAPES if name != "tiny"]
    shapes = names if arguments.shape == "all" else [arguments.shape]
    dtype = harness.products_dtype(arguments.dtype, arguments.device)
    common = (arguments.sequences, arguments.per_pass, arguments.sequence_length)
    return [
        Setting(shape, adapter, *common, arguments.device, dtype)
        for shape in shapes
        for adapter in arguments.adapters
    ]


def parsed(argv: list[str] | None) -> argparse.Namespace:
    parser = common_options(__doc__ or "")
    parser.add_argument("--shape", choices=[*SHAPES, "all"], default="smollm2")
    parser.add_argument("--adapters", type=_adapters, default="full,lora", help=", ".join(ADAPTERS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sequence_length", type=int, help="tokens; 1024, and on CUDA 2048")
    parser.add_argument("--sequences", type=int, help="of a step; 1, and on CUDA 16")
    parser.add_argument("--per_pass", type=int, default=4, help="sequences of a forward pass")
    arguments = parser.parse_args(argv)
    on_cpu = arguments.device == "cpu"
    arguments.sequence_length = arguments.sequence_length or (1024 if on_cpu else 2048)
    arguments.sequences = arguments.sequences or (1 if on_cpu else 16)
    arguments.per_pass = min(arguments.per_pass, arguments.sequences)
    return arguments


def _adapters(text: str) -> list[Adapter]:
    chosen: list[Any] = text.split(",")
    for name in chosen:
        if name not in ADAPTERS:
            raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(ADAPTERS)}")
    return chosen


def _text(arguments: argparse.Namespace) -> str:
    dtype = harness.dtype_name(harness.products_dtype(arguments.dtype, arguments.device))
    length = f"{arguments.sequence_length:,}"
    return (
        f"Forward, backward and fused AdamW on {arguments.sequences} x {length} tokens, "
        f"{arguments.per_pass} x {length} a forward pass; weights in float32, products in {dtype}. "
        f"The ratio is the median over {arguments.rounds} interleaved rounds of a variant's step "
        "over FT's step of the same round; the limit counts multiply-adds alone (`arithmetic.py`)."
    )


def main(argv: list[str] | None = None) -> None:
    arguments = parsed(argv)
    torch.set_num_threads(arguments.threads)
    cells: list[dict[str, Any]] = []
    table = ""
    for setting in settings(arguments):
        print(f"{SHAPES[setting.shape].title}, {ADAPTERS[setting.adapter]} …", flush=True)
        cells += cells_of(setting, arguments.rounds)
        # A long benchmark that is stopped leaves what it has measured.
        table = report_of(arguments, cells).write(arguments.output)
    print(table)


def report_of(arguments: argparse.Namespace, cells: list[dict[str, Any]]) -> Report:
    used = list(dict.fromkeys(cell["shape"] for cell in cells))
    columns = len({cell["adapter"] for cell in cells})
    return Report(
        name=arguments.name or "step",
        title="A training step of MFT beside finetuning",
        text=_text(arguments),
        header=["model", "trained", "variant", "step", "ratio to FT", "middle half", "limit"],
        rows=[table_row(cell) for cell in cells],
        words=3,
        notes=[SHAPES[shape].note for shape in used if SHAPES[shape].note],
        options=options_of(arguments),
        cells=cells,
        draw=lambda figure: draw(figure, cells),
        figure_size=(3.2 + 4.0 * columns, 0.8 + 2.2 * len(used)),
    )


if __name__ == "__main__":
    main()
