"""The shapes of models that are measured, all with random weights: time does not read them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


@dataclass(frozen=True)
class Shape:
    """A llama: V entries of vocabulary, H hidden units, embeddings tied to the output head."""

    title: str
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    head_width: int
    note: str = ""

    @property
    def head_parameters(self) -> int:
        """Weights of the output head, which are those of the embeddings too."""
        return self.vocabulary * self.hidden

    @property
    def body_parameters(self) -> int:
        """Weights of the projections of all layers (the norms' few are left out)."""
        queries = self.heads * self.head_width
        keys_and_values = 2 * self.key_value_heads * self.head_width
        attention = self.hidden * (2 * queries + keys_and_values)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def parameters(self) -> int:
        return self.body_parameters + self.head_parameters

    def model(self, sequence_length: int, device: str = "cpu") -> "LlamaForCausalLM":
        """The model in float32, its weights drawn from seed 0 where they are to be.

        A GPU draws a billion of them at once; a CPU takes half a minute, then they are moved.
        """
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_value_heads,
            head_dim=self.head_width,
            max_position_embeddings=sequence_length,
            tie_word_embeddings=True,
            use_cache=False,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=None,
        )
        torch.manual_seed(0)
        with torch.device(device):
            return LlamaForCausalLM(config)


SHAPES = {
    "smollm2": Shape("SmolLM2-135M", 49152, 576, 1536, 30, 9, 3, 64),
    "openelm": Shape(
        "OpenELM-270M",
        32000,
        1280,
        2896,
        16,
        16,
        4,
        64,
        note="OpenELM-270M's heads and MLPs vary from layer to layer, and transformers lacks it: "
        "its shape here is a llama of the same vocabulary, hidden size, depth and number of "
        "parameters",
    ),
    "llama1b": Shape("Llama-3.2-1B", 128256, 2048, 8192, 16, 32, 8, 64),
    "tiny": Shape("a tiny llama", 512, 32, 64, 2, 4, 2, 8, note="for trying the benchmark itself"),
}
