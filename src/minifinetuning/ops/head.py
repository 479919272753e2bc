"""The output head: from a hidden state to the logits, in every form that models use."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Head", "whole_logits"]


@dataclass(frozen=True)
class Head:
    """An output head. For a hidden state h of shape (N, H) its logits (N, V) are

        a = scale * (h @ weight.T + bias)
        z = soft_cap * tanh(a / soft_cap)       where there is a soft cap, else z = a

    `weight` is (V_rows, H), `bias` (V_rows,). `scale` covers heads that multiply (Cohere) and that
    divide (Granite: 1 / logits_scaling); `soft_cap` is Gemma 2's. With `vocabulary_size` V < V_rows
    the rows from V on are padding: their logits are minus infinity, so they get no probability and
    no gradient. Raises ValueError where the shapes do not fit.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    soft_cap: float | None = None
    vocabulary_size: int | None = None

    def __post_init__(self) -> None:
        rows = self.weight.shape[0]
        if self.weight.dim() != 2:
            raise ValueError(f"the head's weight must be (V, H), got {tuple(self.weight.shape)}")
        if self.bias is not None and self.bias.shape != (rows,):
            raise ValueError(f"the head's bias must be ({rows},), got {tuple(self.bias.shape)}")
        if self.vocabulary_size is not None and not 0 < self.vocabulary_size <= rows:
            raise ValueError(f"vocabulary_size must be in 1..{rows}, got {self.vocabulary_size}")
        if self.scale <= 0:
            raise ValueError(f"scale must be above zero, got {self.scale}")
        if self.soft_cap is not None and self.soft_cap <= 0:
            raise ValueError(f"soft_cap must be above zero, got {self.soft_cap}")

    @property
    def size(self) -> int:
        """V: the entries of the vocabulary that can get probability."""
        return self.vocabulary_size or self.weight.shape[0]

    def detached(self) -> "Head":
        """The same head out of the graph, its padding rows cut off."""
        bias = None if self.bias is None else self.bias.detach()[: self.size]
        weight = self.weight.detach()[: self.size]
        return replace(self, weight=weight, bias=bias, vocabulary_size=None)

    def cloned(self) -> "Head":
        """The same head in memory of its own."""
        bias = None if self.bias is None else self.bias.clone()
        return replace(self, weight=self.weight.clone(), bias=bias)

    def logits(self, hidden: Tensor) -> Tensor:
        """z of shape (N, V) for `hidden` (N, H), in float32 or better, differentiable."""
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        z = hidden.to(dtype) @ self.weight[: self.size].to(dtype).T
        if self.bias is not None:
            z = z + self.bias[: self.size].to(dtype)
        z = z * self.scale
        return z if self.soft_cap is None else self.soft_cap * torch.tanh(z / self.soft_cap)


@contextmanager
def whole_logits(device: str) -> Iterator[None]:
    """Switch autocast off, which would round logits to half precision before the softmax.

    Where it was bfloat16 autocast on a CPU, oneDNN multiplies the float32 matrices: it may round
    their elements to bfloat16 where the processor gains by it, as autocast would, but sums and
    results stay float32; and it is the faster library where it rounds nothing.
    """
    autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings.fp32_precision
    if device == "cpu" and autocast == torch.bfloat16:
        settings.fp32_precision = "bf16"
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        settings.fp32_precision = before
