"""Where the op sums up its gradients, chunk by chunk, in float32 or better."""

from dataclasses import dataclass

import torch
from torch import Tensor

from minifinetuning.ops.head import Head
from minifinetuning.ops.outputs import TokenOutputs
from minifinetuning.ops.teacher import ExpectedEmbedding

__all__ = ["Gradients", "product"]


@dataclass
class Gradients:
    """Gradients of the summed loss in float32 or better; None where they are not needed."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None

    @classmethod
    def zeros(
        cls,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
        needed: list[bool],
    ) -> "Gradients":
        like = (hidden, weight, bias)
        return cls(
            *(
                torch.zeros(tensor.shape, dtype=dtype, device=tensor.device)
                if need and tensor is not None
                else None
                for tensor, need in zip(like, needed, strict=True)
            )
        )

    @property
    def any(self) -> bool:
        return any(gradient is not None for gradient in (self.hidden, self.weight, self.bias))

    def add(
        self, chunk: slice, logit_gradient: Tensor, hidden: Tensor, weight: Tensor, head: Head
    ) -> None:
        """Carry a chunk's d loss / d z_S (n, V), still without w and scale, to the parameters."""
        # Weight and scale multiply rows, so they go on the narrow side of each product.
        row_scale = (weight * head.scale).unsqueeze(1)
        if self.hidden is not None:
            torch.mm(logit_gradient, head.weight, out=self.hidden[chunk]).mul_(row_scale)
        if self.weight is not None:
            self.weight[: head.size].addmm_(logit_gradient.T, hidden * row_scale)
        if self.bias is not None:
            self.bias[: head.size].addmv_(logit_gradient.T, row_scale.squeeze(1))

    def add_weighted(
        self, chunk: slice, product_gradient: Tensor, hidden: Tensor, head: Head, factor: float
    ) -> None:
        """Carry a chunk's factor * d loss / d (h @ W.T + b) (n, V), with w and scale in it.

        Gradient, hidden states and the head's weight are of one dtype, which may be a 16-bit one.
        """
        if self.hidden is not None:
            part = product(product_gradient, head.weight, out=self.hidden[chunk])
            if factor != 1:
                part.div_(factor)
        if self.weight is not None:
            rows = self.weight[: head.size]
            add_product(product_gradient.T, hidden, out=rows, alpha=1 / factor)
        if self.bias is not None:
            column_sums = product_gradient.sum(0, dtype=self.bias.dtype)
            self.bias[: head.size].add_(column_sums, alpha=1 / factor)

    def add_expected(
        self, chunk: slice, teacher: ExpectedEmbedding, outputs: TokenOutputs, scale: float
    ) -> None:
        """Add the teacher's part, -w * (1 - m) * embedding, which needs no vocabulary."""
        if self.hidden is not None:
            share = (outputs.mixing - 1) * outputs.weight * scale
            self.hidden[chunk].addcmul_(teacher.embedding[chunk], share.unsqueeze(1))


def product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """out = a @ b, summed in the dtype of `out`: `a` and `b` are of that, or of a 16-bit one."""
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
