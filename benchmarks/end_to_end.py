"""A whole run of MFT, its teacher's cache built inside it, beside finetuning and TRL's GKD trainer.

The same random model and the same random sequences for all; every run in a process of its own.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import harness
import torch
from reports import BLUE, GREY, ORANGE, Report, common_options, finish, gibibytes, options_of
from shapes import SHAPES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ADAPTERS = {"full": "full", "frozen_head": "full, frozen head", "lora": "LoRA, rank 8"}
RUNS = {
    "ft": "FT",
    "expected": "MFT, expected embeddings cached",
    "hidden": "MFT, hidden states cached",
    "none": "MFT, no cache",
    "gkd": "TRL GKDTrainer",
}


@dataclass(frozen=True)
class Setting:
    """One run: `sequences` of T tokens, read `epochs` times, `per_step` of them a step."""

    run: str
    shape: str
    adapter: str
    sequences: int
    per_step: int
    sequence_length: int
    epochs: int
    device: str
    dtype: torch.dtype


def measured(setting: Setting) -> dict[str, float]:
    """Seconds of the run, from making the trainer to its last step, and bytes at its peak.

    The bytes are of the whole process on a CPU, of all tensors on a GPU. Loading libraries and
    making the random model is not in the time, and is the same for all in the memory.
    """
    from transformers import PrinterCallback

    is_peer = setting.run == "gkd"
    import_module("trl.experimental.gkd" if is_peer else "minifinetuning.training.trainer")
    if setting.run == "expected" and setting.adapter == "full":
        raise harness.NotMeasuredError("an expected embedding needs a frozen output head")
    model = SHAPES[setting.shape].model(setting.sequence_length, setting.device)
    sequences = _sequences(setting)
    trainer_of = _gkd_trainer if is_peer else _own_trainer
    with harness.empty_caches() as folder:
        start = perf_counter()
        trainer = trainer_of(setting, model, sequences, folder)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        harness.synchronize(setting.device)
        taken = perf_counter() - start
    if setting.device != "cpu":
        return {"seconds": taken, "peak_bytes": torch.cuda.max_memory_allocated()}
    return {"seconds": taken, "peak_bytes": harness.peak_resident_memory()}


def _sequences(setting: Setting) -> list[dict[str, list[int]]]:
    generator = torch.Generator().manual_seed(1)
    size = (setting.sequences, setting.sequence_length)
    tokens = torch.randint(SHAPES[setting.shape].vocabulary, size, generator=generator)
    return [{"input_ids": row} for row in tokens.tolist()]


def _arguments(setting: Setting, folder: Path) -> dict[str, Any]:
    """The `TrainingArguments` that all runs share: nothing evaluated, nothing saved."""
    return {
        "output_dir": str(folder / "run"),
        "num_train_epochs": setting.epochs,
        "max_steps": -1,
        "per_device_train_batch_size": setting.per_step,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-5,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "eval_strategy": "no",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": setting.dtype == torch.bfloat16,
        "use_cpu": setting.device == "cpu",
        "dataloader_pin_memory": setting.device != "cpu",
        "gradient_checkpointing": False,
    }


def _own_trainer(setting: Setting, model: Any, sequences: Any, folder: Path) -> Any:
    from minifinetuning.training.config import MFTConfig
    from minifinetuning.training.trainer import MFTTrainer

    options: dict[str, Any] = {"objective": "ft"}
    if setting.run != "ft":
        options = {"objective": "mft", "teacher_cache": setting.run}
    if setting.adapter == "frozen_head":
        options["freeze_head"] = True
    config = MFTConfig(load_best_model_at_end=False, **options, **_arguments(setting, folder))
    return MFTTrainer(
        model=model, args=config, train_dataset=sequences, peft_config=_adapter(setting, model)
    )


def _gkd_trainer(setting: Setting, model: Any, sequences: Any, folder: Path) -> Any:
    """GKD on the given texts alone (lmbda 0), its teacher the model as it is before training."""
    from copy import deepcopy

    from datasets import Dataset
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    if setting.adapter == "frozen_head":
        model.get_output_embeddings().requires_grad_(False)
    config = GKDConfig(lmbda=0.0, max_length=setting.sequence_length, **_arguments(setting, folder))
    return GKDTrainer(
        model=model,
        teacher_model=deepcopy(model),
        args=config,
        data_collator=_gkd_batch,
        train_dataset=Dataset.from_list(sequences),
        processing_class=_tokenizer(),
        peft_config=_adapter(setting, model),
    )


def _gkd_batch(examples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Whole sequences with the attention mask that the GKD trainer asks for."""
    tokens = torch.tensor([example["input_ids"] for example in examples])
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens}


def _adapter(setting: Setting, model: Any) -> Any:
    if setting.adapter != "lora":
        return None
    from minifinetuning.models.adapters import adapter_config

    return adapter_config("lora", model, rank=8)


def _tokenizer() -> Any:
    """The GKD trainer asks for one, though the texts are tokens already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"<eos>": 0, "word": 1}, unk_token="<eos>"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<eos>")


def cells_of(settings: list[Setting], rounds: int) -> Iterator[list[dict[str, Any]]]:
    """One record a run, for runs of one adapter, the first of them FT.

    Given whenever something was measured: what is not yet has that for its reason.
    """
    results: dict[str, list[dict[str, float]]] = {}
    reasons: dict[str, str] = {}
    for number in range(rounds):
        for setting in settings if number % 2 == 0 else settings[::-1]:
            if setting.run in reasons:
                continue
            print(f"{ADAPTERS[setting.adapter]}, {RUNS[setting.run]} …", flush=True)
            try:
                found = harness.in_fresh_process(measured, setting)
                results.setdefault(setting.run, []).append(found)
            except Exception as error:  # whatever a run raises is its row in the table
                reasons[setting.run] = harness.reason(error)
            yield [_cell(setting, results, reasons) for setting in settings]


def _cell(
    setting: Setting, results: dict[str, list[dict[str, float]]], reasons: dict[str, str]
) -> dict[str, Any]:
    cell = {name: value for name, value in asdict(setting).items() if name != "dtype"}
    if setting.run in reasons or setting.run not in results:
        return cell | {"reason": reasons.get(setting.run, "not measured yet")}
    own = results[setting.run]
    cell |= {name: [found[name] for found in own] for name in ("seconds", "peak_bytes")}
    if "ft" in results and "ft" not in reasons:
        for name in ("seconds", "peak_bytes"):
            pairs = zip(own, results["ft"], strict=False)  # one may be a round ahead
            ratios = [mine[name] / theirs[name] for mine, theirs in pairs]
            cell[f"{name}_of_ft"] = statistics.median(ratios)
    return cell


def table_row(cell: dict[str, Any]) -> list[str]:
    name = [ADAPTERS[cell["adapter"]], RUNS[cell["run"]]]
    if "reason" in cell:
        return [*name, cell["reason"]]
    time, peak = statistics.median(cell["seconds"]), statistics.median(cell["peak_bytes"])
    ratios = [cell.get(f"{of}_of_ft") for of in ("seconds", "peak_bytes")]
    shown = ["-" if ratio is None else f"{ratio:.3f}" for ratio in ratios]
    return [*name, f"{time:.1f} s", shown[0], gibibytes(int(peak)), shown[1]]


def draw(figure: "Figure", cells: list[dict[str, Any]]) -> None:
    """Time and memory relative to FT: one row of panels for each adapter."""
    adapters = list(dict.fromkeys(cell["adapter"] for cell in cells))
    grid = figure.subplots(len(adapters), 2, squeeze=False, sharey="row")
    titles = (("seconds_of_ft", "time of the whole run"), ("peak_bytes_of_ft", "peak memory"))
    for row, adapter in zip(grid, adapters, strict=True):
        own = [cell for cell in cells if cell["adapter"] == adapter]
        for axes, (value, what) in zip(row, titles, strict=True):
            _draw_panel(axes, own, value)
            finish(axes, f"{ADAPTERS[adapter]}: {what}", "relative to FT  (lower is better ←)")


def _draw_panel(axes: "Axes", cells: list[dict[str, Any]], value: str) -> None:
    for height, cell in enumerate(reversed(cells)):
        ratio = cell.get(value)
        if ratio is None:
            axes.text(0.02, height, "not measured", va="center", color=GREY, fontsize=8.5)
            continue
        colour = {"ft": ORANGE, "gkd": GREY}.get(cell["run"], BLUE)
        axes.barh(height, ratio, 0.62, color=colour)
        label = f"{ratio:.2f}"
        axes.annotate(label, (ratio, height), (5, 0), "data", "offset points", va="center")
    axes.set_yticks(range(len(cells)), [RUNS[cell["run"]] for cell in reversed(cells)])
    axes.axvline(1, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    axes.margins(x=0.14)


def settings(arguments: argparse.Namespace, adapter: str) -> list[Setting]:
    """The runs with an adapter."""
    dtype = harness.products_dtype(arguments.dtype, arguments.device)
    return [
        Setting(
            run=run,
            shape=arguments.shape,
            adapter=adapter,
            sequences=arguments.sequences,
            per_step=arguments.per_step,
            sequence_length=arguments.sequence_length,
            epochs=arguments.epochs,
            device=arguments.device,
            dtype=dtype,
        )
        for run in arguments.runs
    ]


def parsed(argv: list[str] | None) -> argparse.Namespace:
    parser = common_options(__doc__ or "")
    parser.add_argument("--shape", choices=SHAPES, default="smollm2")
    parser.add_argument("--adapters", type=_listed(ADAPTERS), default="lora")
    parser.add_argument("--runs", type=_listed(RUNS), default="ft,expected,hidden,none,gkd")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--per_step", type=int, default=1, help="sequences of a step")
    parser.add_argument("--sequence_length", type=int, default=1024, help="tokens")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--memory",
        action="store_true",
        help="peak memory alone: LoRA, FT and MFT with expected embeddings, one epoch",
    )
    arguments = parser.parse_args(argv)
    if arguments.memory:
        arguments.adapters, arguments.runs, arguments.epochs = ["lora"], ["ft", "expected"], 1
    return arguments


def _listed(choices: dict[str, str]) -> Callable[[str], list[str]]:
    """A parser of names with commas between them, in the order of the choices."""

    def names(text: str) -> list[str]:
        unknown = [name for name in text.split(",") if name not in choices]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(choices)}")
        return [name for name in choices if name in text.split(",")]

    return names


def main(argv: list[str] | None = None) -> None:
    arguments = parsed(argv)
    torch.set_num_threads(arguments.threads)
    done: list[dict[str, Any]] = []
    table = ""
    for adapter in arguments.adapters:
        for cells in cells_of(settings(arguments, adapter), arguments.rounds):
            # A long benchmark that is stopped leaves what it has measured.
            table = report_of(arguments, done + cells).write(arguments.output)
        done += cells
    print(table)


def report_of(arguments: argparse.Namespace, cells: list[dict[str, Any]]) -> Report:
    shape = SHAPES[arguments.shape]
    tokens = arguments.sequences * arguments.sequence_length
    dtype = harness.dtype_name(harness.products_dtype(arguments.dtype, arguments.device))
    memory = "that of the whole process"
    if arguments.device == "cuda":
        memory = "that of all tensors on the GPU"
    adapters = len({cell["adapter"] for cell in cells})
    return Report(
        name=arguments.name or ("end_to_end_memory" if arguments.memory else "end_to_end"),
        title="A whole run of MFT beside finetuning and TRL's GKD",
        text=(
            f"{shape.title} with random weights, {tokens:,} tokens, {arguments.epochs} epoch"
            f"{'s' if arguments.epochs > 1 else ''}, steps of {arguments.per_step} x "
            f"{arguments.sequence_length:,} tokens, "
            f"products in {dtype}. Time runs from making the trainer to its last step, the "
            f"teacher's cache included; peak memory is {memory}. Every run has a process of its "
            "own."
        ),
        header=["trained", "run", "time", "time / FT", "peak memory", "memory / FT"],
        rows=[table_row(cell) for cell in cells],
        words=2,
        notes=["GKD: `lmbda=0`, its teacher a copy of the model; its loss is the JSD, on logits"],
        options=options_of(arguments),
        cells=cells,
        draw=lambda figure: draw(figure, cells),
        figure_size=(10.5, 0.6 + (0.9 + 0.36 * len(arguments.runs)) * adapters),
    )


if __name__ == "__main__":
    main()
