"""Where the chunked op sums up its gradients."""

from dataclasses import dataclass

import torch
from torch import Tensor

from minifinetuning.ops.head import Head

__all__ = ["Gradients"]


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
