"""OpenELM: Apple's decoder, whose layers differ in width, as transformers' own models are written.

No release of transformers has it, and the code on the hub was written for transformers 4. This one
reads Apple's checkpoints as they are; importing it makes the Auto classes know it. Architecture:
arXiv:2404.14619.
"""

# ruff: noqa: RUF012 - what a class tells transformers of itself is in plain lists and dicts.

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    Cache,
    DynamicCache,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.activations import ACT2FN
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from minifinetuning.models.openelm.configuration import OpenELMConfig

__all__ = ["OpenELMConfig", "OpenELMForCausalLM", "OpenELMModel"]

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines of each position's rotation, (B, 1, T, head_dim / 2) in float32."""


class OpenELMRMSNorm(nn.Module):
    """x / sqrt(mean(x²) + 1e-6) in float32, then in x's dtype times a weight per channel."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, states: Tensor) -> Tensor:
        normal = nn.functional.rms_norm(states.float(), self.weight.shape, eps=1e-6)
        return normal.type_as(states) * self.weight


def rotation_at(position_ids: Tensor, config: OpenELMConfig) -> Rotation:
    """The angles position * rope_freq_constant^(-2 i / head_dim), as cosines and sines.

    Made anew for each forward: a buffer would be rounded wherever the model is cast to bfloat16.
    """
    pairs = torch.arange(0, config.head_dim, 2, device=position_ids.device, dtype=torch.float32)
    frequencies = config.rope_freq_constant ** (-pairs / config.head_dim)
    angles = position_ids[:, None, :, None].float() * frequencies
    return angles.cos(), angles.sin()


def rotated(heads: Tensor, rotation: Rotation) -> Tensor:
    """(B, heads, T, head_dim), channels i and i + head_dim / 2 turned as a vector in the plane."""
    cosines, sines = rotation
    first, second = heads.float().chunk(2, dim=-1)
    turned = (first * cosines - second * sines, second * cosines + first * sines)
    return torch.cat(turned, dim=-1)


def eager_attention(
    module: "OpenELMAttention",
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """softmax(q kᵀ * scaling + mask) v, plainly: the only kind that gives back its weights.

    In: (B, heads, T, head_dim), with as many key and value heads as the layer has. Out: (B, T,
    heads, head_dim), and the weights (B, heads, T, T).
    """
    key = key.repeat_interleave(module.num_key_value_groups, dim=1)
    value = value.repeat_interleave(module.num_key_value_groups, dim=1)
    scores = query @ key.mT * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).type_as(query)
    return (weights @ value).transpose(1, 2), weights


class OpenELMAttention(nn.Module):
    """Causal attention of this layer's own number of heads, grouped, out of one projection."""

    def __init__(self, config: OpenELMConfig, layer: int) -> None:
        super().__init__()
        queries, keys = config.heads[layer]
        self.config = config
        self.heads = [queries, keys, keys]
        self.qkv_proj = nn.Linear(config.model_dim, sum(self.heads) * config.head_dim, bias=False)
        self.out_proj = nn.Linear(queries * config.head_dim, config.model_dim, bias=False)
        normalized = config.normalize_qk_projections
        self.q_norm = OpenELMRMSNorm(config.head_dim) if normalized else nn.Identity()
        self.k_norm = OpenELMRMSNorm(config.head_dim) if normalized else nn.Identity()
        # The names that transformers' attention functions ask for.
        self.layer_idx = layer
        self.num_key_value_groups = queries // keys
        self.is_causal = True

    def forward(
        self,
        states: Tensor,
        rotation: Rotation,
        attention_mask: Tensor | None,
        past_key_values: Cache | None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        projected = self.qkv_proj(states).unflatten(-1, (-1, self.config.head_dim)).transpose(1, 2)
        query, key, value = projected.split(self.heads, dim=1)
        query = rotated(self.q_norm(query), rotation).type_as(value)
        key = rotated(self.k_norm(key), rotation).type_as(value)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attention: Callable[..., tuple[Tensor, Tensor | None]]
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention
        )
        scaling = self.config.head_dim**-0.5
        mixed, weights = attention(
            self, query, key, value, attention_mask, scaling=scaling, dropout=0.0, **kwargs
        )
        return self.out_proj(mixed.flatten(2)), weights


class OpenELMFeedForward(nn.Module):
    """proj_2(act(a) * b) with a and b the halves of proj_1(x); proj_2(act(proj_1(x))) ungated."""

    def __init__(self, config: OpenELMConfig, layer: int) -> None:
        super().__init__()
        size = config.feed_forward_sizes[layer]
        self.gated = config.ffn_with_glu
        self.proj_1 = nn.Linear(config.model_dim, 2 * size if self.gated else size, bias=False)
        self.proj_2 = nn.Linear(size, config.model_dim, bias=False)
        self.activation = ACT2FN[config.activation_fn_name]

    def forward(self, states: Tensor) -> Tensor:
        wide = self.proj_1(states)
        if self.gated:
            gate, wide = wide.chunk(2, dim=-1)
            wide = self.activation(gate) * wide
        else:
            wide = self.activation(wide)
        narrow: Tensor = self.proj_2(wide)
        return narrow


class OpenELMDecoderLayer(GradientCheckpointingLayer):
    """Attention, then feed-forward: each on the normalised stream, and added to it."""

    def __init__(self, config: OpenELMConfig, layer: int) -> None:
        super().__init__()
        self.attn = OpenELMAttention(config, layer)
        self.ffn = OpenELMFeedForward(config, layer)
        self.attn_norm = OpenELMRMSNorm(config.model_dim)
        self.ffn_norm = OpenELMRMSNorm(config.model_dim)

    def forward(
        self,
        states: Tensor,
        rotation: Rotation,
        attention_mask: Tensor | None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        mixed, _ = self.attn(
            self.attn_norm(states), rotation, attention_mask, past_key_values, **kwargs
        )
        states = states + mixed
        widened: Tensor = states + self.ffn(self.ffn_norm(states))
        return widened


class OpenELMPreTrainedModel(PreTrainedModel):
    """What transformers wants to know of the architecture."""

    config: OpenELMConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _input_embed_layer = "token_embeddings"
    _no_split_modules = ["OpenELMDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_record_outputs = {
        "hidden_states": OpenELMDecoderLayer,
        "attentions": OpenELMAttention,
    }


class OpenELMModel(OpenELMPreTrainedModel):
    """The decoder: tokens (B, T) to the states (B, T, model_dim) that the output head takes."""

    def __init__(self, config: OpenELMConfig) -> None:
        super().__init__(config)
        self.token_embeddings = nn.Embedding(config.vocab_size, config.model_dim)
        self.layers = nn.ModuleList(
            OpenELMDecoderLayer(config, layer) for layer in range(config.num_transformer_layers)
        )
        self.norm = OpenELMRMSNorm(config.model_dim)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults  # type: ignore[untyped-decorator]
    @capture_outputs  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Arguments, cache and output as in every decoder of transformers."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        states = self.token_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            seen = 0 if past_key_values is None else past_key_values.get_seq_length()
            position_ids = torch.arange(states.shape[1], device=states.device)[None] + seen
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=states,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        rotation = rotation_at(position_ids, self.config)
        for layer in self.layers:
            states = layer(
                states,
                rotation,
                mask,
                past_key_values=past_key_values,
                position_ids=position_ids,
                use_cache=use_cache,
                **kwargs,
            )
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(states),
            past_key_values=past_key_values if use_cache else None,
        )


class OpenELMForCausalLM(OpenELMPreTrainedModel, GenerationMixin):
    """The decoder and its output head, which Apple's released models share with the embeddings."""

    _tied_weights_keys = {"lm_head.weight": "transformer.token_embeddings.weight"}

    def __init__(self, config: OpenELMConfig) -> None:
        super().__init__(config)
        self.transformer = OpenELMModel(config)
        self.lm_head = nn.Linear(config.model_dim, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """As in every causal model of transformers: position t predicts labels[t + 1]."""
        outputs = self.transformer(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        last = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, last])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


# Ours stays where a later transformers has an OpenELM of its own.
AutoConfig.register("openelm", OpenELMConfig, exist_ok=True)
AutoModel.register(OpenELMConfig, OpenELMModel, exist_ok=True)
AutoModelForCausalLM.register(OpenELMConfig, OpenELMForCausalLM, exist_ok=True)
