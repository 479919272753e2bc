"""The protocol of the paper's section 3.1, what it leaves open and we chose, and smaller ones.

From the paper: 4M training and 0.5M validation tokens, split by document; sequences of 2048; 1000
steps of 16 sequences; tau = 0.25; 50 % replay; rank 8 on all attention and MLP projections; the
checkpoint of least specialized validation perplexity; a reference tuned on at most 4M unique tokens
of OpenWebText, of which the checkpoint of least validation perplexity is kept. Everything that it
leaves open is in `Protocol.chosen_by_us`.
"""

from dataclasses import dataclass

from minifinetuning.errors import InputError
from minifinetuning.lab.paper.cells import METHODS, PaperCell
from minifinetuning.models.config import AdapterConfig
from minifinetuning.report import learning_rate

__all__ = ["PAPER", "PROTOCOLS", "Protocol", "protocol_named"]


@dataclass(frozen=True)
class Protocol:
    """How every cell is run. Tokens count the specialized text; a step has `sequences`."""

    name: str
    train_tokens: int
    validation_tokens: int
    reference_tokens: int
    sequence_length: int
    sequences: int
    steps: int
    evaluations: int = 10
    learning_rate: float = 3e-5
    adapter_learning_rate: float = 3e-4
    ia3_learning_rate: float = 3e-3
    reference_adapter: str | None = None
    reference_learning_rate: float = 3e-5
    ewc_lambda: float = 3000.0

    @property
    def step_tokens(self) -> int:
        """Tokens of an optimizer step."""
        return self.sequences * self.sequence_length

    @property
    def run_tokens(self) -> int:
        """Tokens seen in a training, each as often as it comes round."""
        return self.steps * self.step_tokens

    def tokens_of(self, cell: PaperCell) -> int:
        """The unique tokens that a cell is trained on."""
        return round(self.train_tokens * cell.knob("data_share"))

    def learning_rate_of(self, method: str) -> float:
        """The peak learning rate of one of the paper's methods."""
        words = METHODS[method].split("+")
        if "ia3" in words:
            return self.ia3_learning_rate
        return self.adapter_learning_rate if {"lora", "dora"} & {*words} else self.learning_rate

    @property
    def reference_adapter_config(self) -> AdapterConfig:
        """What the reference is tuned with; its adapter is merged."""
        return AdapterConfig(self.reference_adapter)

    @property
    def chosen_by_us(self) -> tuple[str, ...]:
        """What the paper leaves open, for a person to read."""
        full, adapter, ia3, reference = (
            learning_rate({"learning_rate": rate})
            for rate in (
                self.learning_rate,
                self.adapter_learning_rate,
                self.ia3_learning_rate,
                self.reference_learning_rate,
            )
        )
        return (
            "AdamW without weight decay, 5 % warm-up, cosine decay, gradients clipped at 1",
            f"learning rate {full}, of LoRA and DoRA {adapter}, of IA3 {ia3}; tuned for no method",
            "LoRA's alpha is twice its rank; IA3 scales keys, values and what enters the MLP's "
            "output",
            f"EWC's lambda {self.ewc_lambda:g}, with the true Fisher diagonal from 32,768 tokens "
            "of general text",
            f"{self.evaluations} evaluations; the reference: one epoch at {reference}, stopped "
            "after 3 without gain",
            "figure 7's model, which the paper does not name: OpenELM 1.1B",
        )


PAPER = Protocol("paper", 4_000_000, 500_000, 4_000_000, 2048, sequences=16, steps=1000)
"""Section 3.1: 32M tokens a training, so that each is seen 8 times."""

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        PAPER,
        # A 135M model on a CPU: four minutes of a core for a cell, each token seen twice. So few
        # steps move a model, beyond what its scores vary, only at rates above the paper protocol's.
        Protocol(
            "small",
            train_tokens=8_000,
            validation_tokens=8_000,
            reference_tokens=300_000,
            sequence_length=512,
            sequences=2,
            steps=16,
            evaluations=2,
            learning_rate=1e-4,
            adapter_learning_rate=1e-3,
            ia3_learning_rate=1e-2,
            reference_adapter="lora",
            reference_learning_rate=1e-3,
        ),
        # A model of less than a million parameters that has to learn to write first.
        Protocol(
            "tiny",
            train_tokens=200_000,
            validation_tokens=8_000,
            reference_tokens=600_000,
            sequence_length=128,
            sequences=8,
            steps=160,
            evaluations=5,
            learning_rate=3e-4,
            adapter_learning_rate=2e-3,
            ia3_learning_rate=1e-2,
            reference_learning_rate=3e-3,
        ),
    )
}


def protocol_named(name: str) -> Protocol:
    """Raises InputError for a name that is not known."""
    if name not in PROTOCOLS:
        raise InputError(f"--protocol {name} is not known: choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
