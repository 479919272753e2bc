"""Tiny models of the families that users bring, and what is known of each by hand.

A family is one line of `FAMILIES`; test_families.py puts it through all that is done with a model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import minifinetuning.models.openelm  # noqa: F401 - the Auto classes know it once imported

__all__ = ["FAMILIES", "Family"]

_SHARED = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}

_ATTENTION = "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj"
_GATED = "mlp.gate_proj mlp.up_proj mlp.down_proj"
_SCALED = "self_attn.k_proj self_attn.v_proj mlp.down_proj"
_LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_ROPE = {"rope_type": "default", "rope_theta": 500.0}
_WHOLE_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}
_SLIDING = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
_WIDE = {"sliding_window": 64}


@dataclass(frozen=True)
class Family:
    """One architecture in small: two layers, about 20 thousand weights.

    `kind` is what transformers calls it, `settings` what it needs beside those that all share, and
    `plain` what would take its peculiarities away, one at a time. `projections` are the linear
    layers of one decoder layer, by their paths in it; `scaled` those that IA3 scales, the MLP's
    after the others. `bias`, `scale` and `soft_cap` are those of the output head. `beside` is what
    text does not pass through, and `leftovers` what published checkpoints hold in each layer that
    is no weight today. `shared` names the settings that it does share.
    """

    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    plain: Mapping[str, Any] = field(default_factory=dict)
    projections: str = f"{_ATTENTION} {_GATED}"
    scaled: str = _SCALED
    bias: bool = False
    scale: float = 1.0
    soft_cap: float | None = None
    beside: tuple[str, ...] = ()
    leftovers: str = ""
    shared: tuple[str, ...] = tuple(_SHARED)

    def model(self, **changes: Any) -> PreTrainedModel:
        """None of its weights is zero or one, and its logits differ by several nats."""
        torch.manual_seed(0)
        shared = {name: _SHARED[name] for name in self.shared}
        config = AutoConfig.for_model(self.kind, **(shared | self.settings | changes))
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.3 * torch.randn_like(parameter))
        return model.eval()


FAMILIES = {
    "GPT-Neo": Family(
        "gpt_neo",
        {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "window_size": 4},
        {"window_size": 64},
        projections="attn.attention.q_proj attn.attention.k_proj attn.attention.v_proj "
        "attn.attention.out_proj mlp.c_fc mlp.c_proj",
        scaled="attn.attention.k_proj attn.attention.v_proj mlp.c_proj",
        leftovers="attn.attention.bias attn.attention.masked_bias",
    ),
    "Phi": Family(
        "phi",
        {"num_key_value_heads": 4},
        {"rope_parameters": _WHOLE_ROPE},
        projections="self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.dense "
        "mlp.fc1 mlp.fc2",
        scaled="self_attn.k_proj self_attn.v_proj mlp.fc2",
        bias=True,
    ),
    "Gemma": Family("gemma", {"num_key_value_heads": 1, "head_dim": 16}),
    "Gemma 2": Family(
        "gemma2",
        {
            "head_dim": 16,
            "query_pre_attn_scalar": 4,
            "final_logit_softcapping": 3.0,
            "attn_logit_softcapping": 2.0,
            "attn_implementation": "eager",
            **_SLIDING,
        },
        {
            "query_pre_attn_scalar": 16,
            "final_logit_softcapping": None,
            "attn_logit_softcapping": None,
            **_WIDE,
        },
        soft_cap=3.0,
    ),
    "Gemma 3": Family(
        "gemma3_text",
        {
            "head_dim": 16,
            "query_pre_attn_scalar": 4,
            "rope_parameters": {
                "sliding_attention": _ROPE,
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
            },
            **_SLIDING,
        },
        {
            "query_pre_attn_scalar": 16,
            "rope_parameters": {"sliding_attention": _ROPE, "full_attention": _ROPE},
            **_WIDE,
        },
    ),
    "Gemma 3 with vision": Family(
        "gemma3",
        {
            "text_config": {**_SHARED, "head_dim": 16, **_SLIDING},
            "vision_config": {
                "hidden_size": 16,
                "intermediate_size": 24,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 8,
                "patch_size": 4,
            },
            "mm_tokens_per_image": 4,
        },
        beside=("vision_tower", "multi_modal_projector"),
        shared=(),
    ),
    "Nemotron": Family(
        "nemotron",
        {"head_dim": 8},
        {"hidden_act": "relu", "rope_parameters": _WHOLE_ROPE},
        projections=f"{_ATTENTION} mlp.up_proj mlp.down_proj",
    ),
    "Llama 2": Family(
        "llama", {"num_key_value_heads": 4}, leftovers="self_attn.rotary_emb.inv_freq"
    ),
    "Llama 3.1": Family("llama", {"rope_parameters": _LLAMA_3}, {"rope_parameters": _ROPE}),
    "Llama 3.2": Family(
        "llama",
        {"rope_parameters": _LLAMA_3, "tie_word_embeddings": True},
        {"rope_parameters": _ROPE},
    ),
    "Qwen 3": Family("qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "Mistral": Family("mistral", {"head_dim": 16, "sliding_window": 4}, _WIDE),
    "SmolLM 3": Family("smollm3", {"no_rope_layers": [1, 0]}, {"no_rope_layers": [1, 1]}),
    "Granite": Family(
        "granite",
        {
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.1,
            "logits_scaling": 4.0,
        },
        {
            "embedding_multiplier": 1.0,
            "residual_multiplier": 1.0,
            "attention_multiplier": 1.0,
            "logits_scaling": 1.0,
        },
        scale=0.25,
    ),
    "Cohere": Family(
        "cohere", {"logit_scale": 0.25, "use_qk_norm": True}, {"logit_scale": 1.0}, scale=0.25
    ),
    "Cohere 2": Family(
        "cohere2", {"logit_scale": 0.25, **_SLIDING}, {"logit_scale": 1.0, **_WIDE}, scale=0.25
    ),
    "GPT-2": Family(
        "gpt2",
        {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
        projections="attn.c_attn attn.c_proj mlp.c_fc mlp.c_proj",
        scaled="attn.c_attn mlp.c_proj",
        leftovers="attn.bias attn.masked_bias",
    ),
    "GPT-NeoX": Family(
        "gpt_neox",
        {"use_parallel_residual": True},
        {"use_parallel_residual": False, "rope_parameters": _WHOLE_ROPE},
        projections="attention.query_key_value attention.dense mlp.dense_h_to_4h mlp.dense_4h_to_h",
        scaled="attention.query_key_value mlp.dense_4h_to_h",
        leftovers="attention.bias attention.masked_bias attention.rotary_emb.inv_freq",
    ),
    "OLMo 2": Family("olmo2"),
    "OpenELM": Family(
        "openelm",
        {
            "model_dim": 32,
            "head_dim": 8,
            "num_transformer_layers": 2,
            "num_gqa_groups": 2,
            "qkv_multipliers": [1.0, 1.0],
            "ffn_multipliers": [1.0, 2.0],
            "ffn_dim_divisor": 16,
            "max_context_length": 64,
            "normalize_qk_projections": True,
            "share_input_output_layers": True,
        },
        {"rope_freq_constant": 30},
        projections="attn.qkv_proj attn.out_proj ffn.proj_1 ffn.proj_2",
        scaled="attn.qkv_proj ffn.proj_2",
        shared=("vocab_size", "initializer_range", "bos_token_id", "eos_token_id"),
    ),
}
