"""Matrix products whose factors may be 16-bit and whose sums and results are float32 or better."""

import torch
from torch import Tensor

__all__ = ["add_product", "product"]


def product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """out = a @ b, with `a` and `b` of one dtype, that of `out` or a 16-bit one."""
    if a.dtype == out.dtype:
        return torch.mm(a, b, out=out)
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=out.dtype, out=out)
    # A CPU has no such product. Two 16-bit factors multiply without rounding in float32: it is the
    # same sum.
    return torch.mm(a.to(out.dtype), b.to(out.dtype), out=out)


def add_product(a: Tensor, b: Tensor, out: Tensor, alpha: float = 1.0) -> Tensor:
    """out += alpha * a @ b, of the same dtypes."""
    if a.dtype == out.dtype:
        return out.addmm_(a, b, alpha=alpha)
    if a.is_cuda:
        # torch.addmm takes a float32 `out` beside 16-bit factors only from torch 2.10 on.
        batch = out.unsqueeze(0)
        torch.baddbmm(
            batch, a.unsqueeze(0), b.unsqueeze(0), out_dtype=out.dtype, alpha=alpha, out=batch
        )
        return out
    return out.addmm_(a.to(out.dtype), b.to(out.dtype), alpha=alpha)
