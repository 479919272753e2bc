"""What an OpenELM is made of: Apple's config.json as it is, and the sizes of each layer."""

from typing import Any, ClassVar, Literal

import numpy
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from minifinetuning.errors import InputError

__all__ = ["PUBLISHED_SIZES", "OpenELMConfig"]

PUBLISHED_SIZES: dict[str, dict[str, Any]] = {
    "270M": {"num_transformer_layers": 16, "model_dim": 1280, "head_dim": 64},
    "450M": {"num_transformer_layers": 20, "model_dim": 1536, "head_dim": 64},
    "1.1B": {"num_transformer_layers": 28, "model_dim": 2048, "head_dim": 64},
    "3B": {"num_transformer_layers": 36, "model_dim": 3072, "head_dim": 128},
}
"""Where the released models differ (the OpenELM paper, arXiv:2404.14619, section 2.1)."""

Multipliers = float | int | list[float | int] | tuple[float | int, ...]


@strict
class OpenELMConfig(PreTrainedConfig):
    """The fields of Apple's config.json, with Apple's defaults.

    Layers differ in width. `qkv_multipliers` and `ffn_multipliers` (qkv and ffn below) are each a
    number for all layers, a pair for the first and the last with equal steps between, or a list of
    one for each. From them follow, with nearest(x, d) a multiple of d near to x,

        num_query_heads[i] = nearest(model_dim * qkv[i], head_dim * num_gqa_groups) / head_dim
        num_kv_heads[i] = num_query_heads[i] / num_gqa_groups
        feed_forward_sizes[i] = nearest(model_dim * ffn[i], ffn_dim_divisor)

    where the heads are not given. Raises InputError for a list that is not one for each layer, and
    for query heads that cannot share their layer's key and value heads.
    """

    model_type = "openelm"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "model_dim",
        "num_hidden_layers": "num_transformer_layers",
        "max_position_embeddings": "max_context_length",
        "hidden_act": "activation_fn_name",
        "tie_word_embeddings": "share_input_output_layers",
    }

    vocab_size: int = 32000
    max_context_length: int = 2048
    num_transformer_layers: int = 12
    model_dim: int = 2048
    head_dim: int = 128
    qkv_multipliers: Multipliers = 1.0
    num_query_heads: list[int] | None = None
    num_kv_heads: list[int] | None = None
    num_gqa_groups: int = 1
    ffn_multipliers: Multipliers = 4.0
    ffn_with_glu: bool = True
    ffn_dim_divisor: int = 256
    activation_fn_name: str = "swish"
    normalization_layer_name: Literal["rms_norm"] = "rms_norm"
    normalize_qk_projections: bool = False
    share_input_output_layers: bool = False
    rope_freq_constant: float | int = 10000
    rope_max_length: int = 4096
    initializer_range: float = 0.02
    use_cache: bool = True
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2

    @classmethod
    def published(cls, size: str) -> "OpenELMConfig":
        """The configuration of a released model: "270M", "450M", "1.1B" or "3B".

        Raises InputError for any other size.
        """
        if size not in PUBLISHED_SIZES:
            raise InputError(
                f"there is no OpenELM of the size {size}: choose one of "
                f"{', '.join(PUBLISHED_SIZES)}"
            )
        return cls(
            **PUBLISHED_SIZES[size],
            qkv_multipliers=[0.5, 1.0],
            num_gqa_groups=4,
            ffn_multipliers=[0.5, 4.0],
            normalize_qk_projections=True,
            share_input_output_layers=True,
        )

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.ffn_multipliers = self._of_each_layer("ffn_multipliers")
        if self.num_query_heads is None:
            step = self.head_dim * self.num_gqa_groups
            self.num_query_heads = [
                _nearest_multiple(self.model_dim * multiplier, step) // self.head_dim
                for multiplier in self._of_each_layer("qkv_multipliers")
            ]
        if self.num_kv_heads is None:
            self.num_kv_heads = [heads // self.num_gqa_groups for heads in self.num_query_heads]
        self._require_shareable_heads()

    @property
    def heads(self) -> list[tuple[int, int]]:
        """Each layer's query heads, and its key and value heads."""
        assert self.num_query_heads is not None
        assert self.num_kv_heads is not None
        return list(zip(self.num_query_heads, self.num_kv_heads, strict=True))

    @property
    def feed_forward_sizes(self) -> list[int]:
        """What each layer's feed-forward widens a token to."""
        return [
            _nearest_multiple(self.model_dim * multiplier, self.ffn_dim_divisor)
            for multiplier in self._of_each_layer("ffn_multipliers")
        ]

    @property
    def num_attention_heads(self) -> int:
        """The most query heads of any layer."""
        return max(queries for queries, _ in self.heads)

    @property
    def num_key_value_heads(self) -> int:
        """The most key and value heads of any layer."""
        return max(keys for _, keys in self.heads)

    def _of_each_layer(self, name: str) -> list[float]:
        """The multipliers of this name, one for each layer; steps are rounded as Apple does."""
        multipliers, layers = getattr(self, name), self.num_transformer_layers
        if isinstance(multipliers, float | int):
            return [multipliers] * layers
        if len(multipliers) == layers:
            return list(multipliers)
        if len(multipliers) == 2:
            first, last = multipliers
            steps: list[float] = numpy.linspace(first, last, layers).round(2).tolist()
            return steps
        raise InputError(
            f"{name} of an OpenELM holds {len(multipliers)} numbers for {layers} layers: give one "
            "number, the first and the last, or one for each layer"
        )

    def _require_shareable_heads(self) -> None:
        for name in ("num_query_heads", "num_kv_heads"):
            if len(heads := getattr(self, name)) != self.num_transformer_layers:
                raise InputError(
                    f"{name} of an OpenELM holds {len(heads)} numbers for "
                    f"{self.num_transformer_layers} layers: give one for each, or leave it out"
                )
        for queries, keys in self.heads:
            if keys < 1 or queries % keys:
                raise InputError(
                    f"{queries} query heads of an OpenELM cannot share {keys} key and value heads: "
                    "give num_query_heads that are multiples of num_kv_heads"
                )


def _nearest_multiple(size: float, divisor: int) -> int:
    """A multiple of the divisor near to `size`: not zero, and not below nine tenths of it."""
    nearest = max(divisor, int(size + divisor / 2) // divisor * divisor)
    return nearest if nearest >= 0.9 * size else nearest + divisor
