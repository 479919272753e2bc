"""What there is to reproduce and what a run of it takes: tokens, arithmetic, hours and disk.

With N parameters, a token costs 2N operations forward and 4N backward. Full finetuning computes
both; an adapter on frozen weights needs no gradient of those, so 4N in all. MFT asks the teacher
once for each unique token (2N) and keeps its hidden states; an evaluation reads both validation
texts (2N a token).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from minifinetuning.lab.methods import parsed_methods
from minifinetuning.lab.paper.cells import METHODS, PaperCell
from minifinetuning.lab.paper.models import PaperModel
from minifinetuning.lab.paper.plan import Plan
from minifinetuning.lab.paper.protocol import Protocol
from minifinetuning.lab.paper.reproduction import Reproduction
from minifinetuning.lab.paper.runs import missing_cells, missing_references
from minifinetuning.report.tables import markdown_table

__all__ = [
    "GPU",
    "GPU_FLOPS",
    "Estimate",
    "cell_estimate",
    "dry_run",
    "estimate",
    "listing",
    "reference_estimate",
]

GPU = "one H100 (bf16, 40 % of 989 TFLOP/s)"
GPU_FLOPS = 0.4 * 989e12

_CHECKPOINT_BYTES = 4
_HIDDEN_STATE_BYTES = 2


@dataclass(frozen=True)
class Estimate:
    """`tokens` are trained on, each as often as it comes round; `bytes` stay on disk afterwards."""

    tokens: float = 0.0
    operations: float = 0.0
    bytes: float = 0.0

    @property
    def hours(self) -> float:
        """On `GPU`."""
        return self.operations / GPU_FLOPS / 3600

    def __add__(self, other: "Estimate") -> "Estimate":
        return Estimate(
            self.tokens + other.tokens,
            self.operations + other.operations,
            self.bytes + other.bytes,
        )


def estimate(
    cells: Iterable[PaperCell],
    references: Iterable[PaperModel],
    protocol: Protocol,
    model_of: Callable[[str], PaperModel],
) -> Estimate:
    """All these cells, and the references of these models; `model_of` gives a cell's by name."""
    total = Estimate()
    teachers: set[tuple[str, str, bool]] = set()
    for cell in cells:
        total += cell_estimate(cell, model_of(cell.model), protocol)
        (method,) = parsed_methods(METHODS[cell.method])
        if method.needs_teacher:
            teachers.add((cell.model, cell.dataset, method.replay is not None))
    for model, _, replays in teachers:
        known = model_of(model)
        unique = protocol.train_tokens * (2 if replays else 1)
        total += Estimate(
            0, 2 * known.parameters * unique, _HIDDEN_STATE_BYTES * known.hidden_size * unique
        )
    for reference in references:
        total += reference_estimate(reference, protocol)
    return total


def cell_estimate(cell: PaperCell, model: PaperModel, protocol: Protocol) -> Estimate:
    """A cell without its teacher, which others share; no weights are kept of it."""
    parameters = model.parameters
    (method,) = parsed_methods(METHODS[cell.method])
    training = (4 if method.adapter else 6) * parameters * protocol.run_tokens
    return Estimate(protocol.run_tokens, training + _evaluations(parameters, protocol))


def reference_estimate(model: PaperModel, protocol: Protocol) -> Estimate:
    """The light tuning on general text, at its longest."""
    tokens = protocol.reference_tokens
    operations = 6 * model.parameters * tokens + _evaluations(model.parameters, protocol) / 2
    return Estimate(tokens, operations, _CHECKPOINT_BYTES * model.parameters)


def _evaluations(parameters: int, protocol: Protocol) -> float:
    """Both validation texts, after each share of the steps."""
    return 2.0 * parameters * protocol.evaluations * 2 * protocol.validation_tokens


def listing(plan: Plan) -> str:
    """Every table and figure with its cells, methods, models and datasets."""
    lines = [["", "models", "methods", "datasets", "values", "cells"]]
    for number in dict.fromkeys(row.table for row in plan.rows):
        rows = [row for row in plan.rows if row.table == number]
        cells = [*dict.fromkeys(row.cell for row in rows)]
        knobs = [row.label for row in rows if row.label != row.method]
        methods = f"{rows[0].method}, {knobs[0]} to {knobs[-1]}" if knobs else None
        lines.append(_line(f"table {number}", str(len(rows)), cells, methods))
    for figure, models in plan.figures:
        lines.append(_line(f"figure {figure.number}", "", figure.cells(models)))
    total = (
        f"{len(plan.rows)} published values, {len(plan.cells)} cells: a training that several "
        "tables show is one cell."
    )
    return f"{markdown_table(lines, words=4)}\n\n{total}"


def dry_run(reproduction: Reproduction) -> str:
    """Each cell with whether it is done, and what the missing ones will take.

    Raises InputError where results of other settings are in the way.
    """
    plan, protocol = reproduction.plan, reproduction.protocol
    missing = missing_cells(reproduction)
    lines = [["cell", "result", "", "tokens", "hours"]]
    for cell in plan.cells:
        one = cell_estimate(cell, reproduction.model(cell.model), protocol)
        hours = f"{one.hours:.2f}" if one.operations else "?"
        path = str(reproduction.result_path(cell))
        state = "to run" if cell in missing else "done"
        lines.append([str(cell), path, state, _count(one.tokens), hours])
    references = missing_references(reproduction, missing)
    parts = [markdown_table(lines, words=3), _total(missing, references, reproduction)]
    if references:
        parts.append(f"References to prepare first, once a model: {', '.join(references)}.")
    models = {cell.model: reproduction.model(cell.model) for cell in plan.cells}.values()
    gated = sorted(f"{each.name} ({each.licence})" for each in models if "gated" in each.licence)
    if gated:
        parts.append(f"Agree to the terms on the hub before: {', '.join(gated)}.")
    chosen = [f"- {choice}" for choice in protocol.chosen_by_us]
    parts.append("\n".join(["What the paper leaves open, and we chose:", *chosen]))
    return "\n\n".join(parts)


def _line(
    name: str, values: str, cells: Sequence[PaperCell], methods: str | None = None
) -> list[str]:
    named = (
        _names(cell.model for cell in cells),
        methods or _names(cell.method for cell in cells),
        _names(cell.dataset for cell in cells),
    )
    return [name, *named, values, str(len(cells))]


def _names(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _total(
    missing: Sequence[PaperCell], references: Sequence[str], reproduction: Reproduction
) -> str:
    protocol = reproduction.protocol
    prepared = [reproduction.model(name) for name in references]
    total = estimate(missing, prepared, protocol, reproduction.model)
    text = f"To run: {len(missing)} cells and {len(references)} references under the protocol "
    text += f"{protocol.name!r}, {_count(total.tokens)} tokens of training"
    if not total.operations:
        return text + "."
    return (
        f"{text}, {total.operations:.2g} operations, {total.hours:,.1f} hours on {GPU}; "
        f"{total.bytes / 1e9:,.1f} GB of checkpoints and teacher caches beside them."
    )


def _count(tokens: float) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if tokens >= size:
            return f"{tokens / size:.3g}{unit}"
    return f"{tokens:g}"
