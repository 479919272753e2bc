"""What cells will take: tokens, arithmetic, hours on a stated GPU, and disk.

With N parameters, a token costs 2N operations forward and 4N backward. Full finetuning computes
both; an adapter on frozen weights needs no gradient of those, so 4N in all. MFT asks the teacher
once for each unique token (2N) and keeps its hidden states; an evaluation reads both validation
texts (2N a token).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from minifinetuning.lab.compare.methods import parsed_methods
from minifinetuning.lab.paper.cells import METHODS, PaperCell
from minifinetuning.lab.paper.models import PaperModel
from minifinetuning.lab.paper.protocol import Protocol

__all__ = ["GPU", "GPU_FLOPS", "Estimate", "cell_estimate", "estimate", "reference_estimate"]

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
