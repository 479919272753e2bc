"""Sequences sampled from a model, many at the same time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import psutil
import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from minifinetuning.models.causal import causal_model, evaluating, output_head
from minifinetuning.models.precision import autocast
from minifinetuning.ops.head import whole_logits

__all__ = ["drawn", "sampled_sequences"]

_SHARE_OF_MEMORY = 0.5
"""Of what is free, for the keys and values of all sequences that are written at the same time."""

_BYTES_A_LOGIT = 16
"""A logit, its weight, and what is in use of either while a token is drawn."""

_BLOCK = 256
"""Entries of the vocabulary that are summed before one of the sums is drawn."""


def sampled_sequences(
    model: PreTrainedModel | PeftModel,
    start: int,
    uniforms: Tensor,
    *,
    bf16: bool,
    wrote: Callable[[int], object],
) -> Tensor:
    """(n, T) of int32 on the CPU: a sequence for each row of `uniforms` (n, T - 1), in [0, 1).

        x_0 = start,    x_t = drawn(logits(x_0 ... x_{t-1}), uniforms[:, t-1])   for t = 1 ... T-1

    A row is the same whatever stands beside it, but for rounding. As many rows as memory has room
    for are written at the same time, and `wrote` is told how many tokens have just been. With
    `bf16` products are rounded to bfloat16 where an evaluation's are, and in fewer places: logits
    are whole, as there, and so is attention on a CPU.
    """
    if not len(uniforms):
        return torch.empty(0, uniforms.shape[1] + 1, dtype=torch.int32)
    with evaluating(model), _products(causal_model(model).device, bf16):
        rows = _rows_at_once(model, start, uniforms.shape[1] + 1)
        batches = uniforms.split(rows)
        return torch.cat([_batch(model, start, batch, wrote) for batch in batches])


def drawn(logits: Tensor, uniform: Tensor) -> Tensor:
    """(N,): for each row of `logits` (N, V) the token that a number in [0, 1), (N,), stands for.

        cumulative = softmax(logits, 1).cumsum(1)
        searchsorted(cumulative, uniform[:, None], right=True)          # is the same

    First one of the blocks of the vocabulary, by their sums in float64, and with what the number
    says beyond that a token of it: a random number a token, where `torch.multinomial` takes V.
    """
    weights = torch.exp(logits - logits.amax(1, keepdim=True))
    weights = pad(weights, (0, -weights.shape[1] % _BLOCK)).view(len(weights), -1, _BLOCK)
    block, rest = _drawn_of(weights.sum(2), uniform.to(logits.device, torch.float64)[:, None])
    inside = weights[torch.arange(len(weights), device=weights.device), block[:, 0]]
    return (block * _BLOCK + _drawn_of(inside, rest)[0])[:, 0]


def _drawn_of(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 1) each: the column of `weights` (N, K) that is drawn, and a new number in [0, 1)."""
    cumulative = weights.cumsum(1, dtype=torch.float64)
    # Below the sum even where the product is rounded up: what has no weight is never drawn.
    total = cumulative[:, -1:]
    level = torch.minimum(uniform * total, total * (1 - 1e-15))
    column = torch.searchsorted(cumulative, level, right=True)
    bounds = pad(cumulative, (1, 0))
    lower, upper = bounds.gather(1, column), bounds.gather(1, column + 1)
    return column, (level - lower) / (upper - lower)


def _batch(
    model: PreTrainedModel | PeftModel,
    start: int,
    uniforms: Tensor,
    wrote: Callable[[int], object],
) -> Tensor:
    """(n, T) of int32 on the CPU; each token costs one forward of one position."""
    inner = causal_model(model)
    head = output_head(model).detached()
    count, length = len(uniforms), uniforms.shape[1] + 1
    tokens = torch.full((count, length), start, device=inner.device)
    past = None
    for position, uniform in enumerate(uniforms.to(inner.device).unbind(1)):
        outputs = inner.get_decoder()(
            input_ids=tokens[:, position : position + 1], past_key_values=past, use_cache=True
        )
        if past is None:
            past = _with_room(outputs.past_key_values, length)
        with whole_logits(inner.device.type):
            logits = head.logits(outputs.last_hidden_state[:, -1])
        tokens[:, position + 1] = drawn(logits, uniform)
        wrote(count)
    return tokens.int().cpu()


def _rows_at_once(model: PreTrainedModel | PeftModel, start: int, length: int) -> int:
    """How many sequences have room in memory, judged by what one token of one leaves behind."""
    inner = causal_model(model)
    token = torch.full((1, 1), start, device=inner.device)
    past = inner.get_decoder()(input_ids=token, use_cache=True).past_key_values
    kept = [
        getattr(layer, name, None)
        for layer in getattr(past, "layers", [])
        for name in ("keys", "values")
    ]
    values = sum(tensor.numel() for tensor in kept if isinstance(tensor, Tensor))
    a_row = 4 * values * length + _BYTES_A_LOGIT * len(output_head(model).weight)
    if inner.device.type == "cuda":
        free = int(torch.cuda.mem_get_info(inner.device)[0])
    else:
        free = int(psutil.virtual_memory().available)
    return max(1, int(_SHARE_OF_MEMORY * free) // a_row)


def _with_room(past: Any, length: int) -> Any:
    """The cache of the first position, its layers with room for `length` of them.

    What is no plain layer, as a window that slides or a state of fixed size, is left as it is.
    """
    if type(past) is DynamicCache:
        past.layers = [_roomy(layer, length) for layer in past.layers]
    return past


def _roomy(layer: Any, length: int) -> Any:
    is_plain = type(layer) is DynamicLayer and layer.is_initialized
    return _RoomyLayer(layer.keys, layer.values, length) if is_plain else layer


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values (n, heads, t, size) that grow in place, where torch.cat copies them all."""

    def __init__(self, keys: Tensor, values: Tensor, length: int) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self._all = [self._room(first, length) for first in (keys, values)]
        self.update(keys, values)

    @staticmethod
    def _room(first: Tensor, length: int) -> Tensor:
        """In the dtype of attention, to which all of it would be cast anew for each token."""
        rows, heads, _, size = first.shape
        dtype, device = first.dtype, first.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.float32 if device == "cpu" else torch.get_autocast_dtype(device)
        return first.new_empty(rows, heads, length, size, dtype=dtype)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        for room, new in zip(self._all, (key_states, value_states), strict=True):
            room[:, :, before:after] = new
        self.keys, self.values = (room[:, :, :after] for room in self._all)
        return self.keys, self.values


@contextmanager
def _products(device: torch.device, bf16: bool) -> Iterator[None]:
    """Matrix products in bfloat16, if so; but a CPU's attention whole."""
    attention = _WholeAttention() if bf16 and device.type == "cpu" else nullcontext()
    with autocast(device, bf16), attention:
        yield


class _WholeAttention(TorchFunctionMode):
    """Attention in float32 under a CPU's autocast.

    For a single query torch's kernel for bfloat16 takes four to five times as long there.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not scaled_dot_product_attention:
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            return func(*map(_whole, args), **{name: _whole(of) for name, of in kwargs.items()})


def _whole(value: Any) -> Any:
    floats = isinstance(value, Tensor) and value.is_floating_point()
    return value.float() if floats else value
