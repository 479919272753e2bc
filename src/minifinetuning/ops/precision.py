"""The precision of logits: never below float32, however the matrices are multiplied."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["whole_logits"]


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
