"""How large a demo a machine can finish in time: its speed is measured on the very model."""

from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

from minifinetuning.data.batches import collate
from minifinetuning.models.causal import causal_model
from minifinetuning.models.loading import load_model
from minifinetuning.models.precision import autocast
from minifinetuning.models.student import DistillationInputs, attach_distillation
from minifinetuning.objectives import rule

__all__ = ["BUDGET_SECONDS", "Size", "Speed", "demo_size", "measured_speed", "said"]

BUDGET_SECONDS = 480.0
"""Of the whole demo: of twelve minutes, four are left to install it on a slow machine."""

SAMPLES_SECONDS = 40.0
"""What is left for loading and saving models, and for the lines that each of them writes."""

SIZES = (
    *((40, 4, 12_000), (40, 2, 12_000), (40, 2, 8_000), (32, 2, 8_000), (24, 2, 8_000)),
    *((24, 2, 6_000), (20, 2, 6_000), (16, 2, 6_000), (16, 2, 4_000), (12, 2, 4_000)),
    *((10, 2, 4_000), (8, 2, 4_000)),
)
"""Steps, evaluations on the way, tokens of each validation text: from the largest to the least."""

OPTIMIZER = 1.15
"""A step with its optimizer, relative to the forward and backward passes of one."""


@dataclass(frozen=True)
class Speed:
    """Seconds that one token takes in a forward pass, and in one with its backward pass."""

    forward: float
    training: float


@dataclass(frozen=True)
class Size:
    """Training steps, evaluations on the way, and tokens of each validation text."""

    steps: int
    evaluations: int
    validation_tokens: int

    def seconds(self, speed: Speed, tokens_a_step: int) -> float:
        """What FT and MFT take together.

        MFT's step has the teacher's forward pass beside its own. The two texts are scored by the
        reference once, and by each method at each evaluation; MFT's asks its teacher too.
        """
        trained = self.steps * tokens_a_step
        training = trained * (2 * OPTIMIZER * speed.training + speed.forward)
        scored = self.validation_tokens * (2 + (2 * 2 + 1) * self.evaluations)
        return training + scored * speed.forward


def demo_size(
    speed: Speed, seconds: float, tokens_a_step: int, steps: int | None = None
) -> tuple[Size, float]:
    """The largest demo that ends within `seconds`, or the least of all; and what it will take.

    `steps` that a person asked for stay as they are: then the evaluations alone are fewer.
    """
    for count, evaluations, tokens in SIZES:
        size = Size(count if steps is None else steps, evaluations, tokens)
        taken = size.seconds(speed, tokens_a_step)
        if taken <= seconds:
            break
    return size, taken


def said(size: Size, speed: Speed, taken: float, tokens_a_step: int) -> str:
    """One line for the person who waits."""
    step = tokens_a_step * OPTIMIZER * speed.training
    full = Size(*SIZES[0])
    shortened = "" if size == full else f" (on a fast machine {full.steps} steps)"
    return (
        f"This machine takes {step:.1f} s for a training step of {tokens_a_step:,} tokens: "
        f"{size.steps} steps{shortened}, evaluated {size.evaluations} times on about "
        f"{size.validation_tokens:,} tokens of each text, about {max(1, round(taken / 60))} "
        "minutes for both methods"
    )


def measured_speed(model: str, tokens: int = 256) -> Speed:
    """Time short sequences of random tokens through this model as training would take them."""
    loaded: Any = load_model(model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded.to(device)
    attach_distillation(causal_model(loaded))
    loaded.train()

    def lap(count: int, with_gradient: bool) -> float:
        ids = torch.randint(loaded.config.vocab_size, (count,))
        batch = {name: of.to(device) for name, of in collate([{"input_ids": ids}]).items()}
        start = perf_counter()
        with (
            torch.set_grad_enabled(with_gradient),
            autocast(device),
        ):
            outputs = loaded(**batch, distillation=DistillationInputs(rule("ft")))
        if with_gradient:
            outputs.loss.backward()
        float(outputs.loss.detach())  # waits for a GPU
        return (perf_counter() - start) / count

    def least(with_gradient: bool) -> float:
        """The shorter of two: whatever else the machine does makes them longer, never shorter."""
        lap(min(64, tokens), with_gradient)  # what is made at the first call is no part of a step
        return min(lap(tokens, with_gradient) for _ in range(2))

    forward = least(False)
    # A backward pass is two products for each one of the forward pass.
    return Speed(forward, training=max(least(True), 2 * forward))
