"""What the op says about tokens, as means for the log."""

import torch
from torch import Tensor

from minifinetuning.models.student import DistillationOutput

__all__ = ["TokenMeans"]


class TokenMeans:
    """Sums over tokens of what the op says about them, kept on the device until they are logged."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, outputs: DistillationOutput) -> None:
        for name in ("tokens", "forward_kl", "teacher_is_right", "mixing"):
            values = getattr(outputs, name)
            if outputs.forward_kl is not None:
                self.sums[name] = self.sums.get(name, 0.0) + values.detach().sum().float()

    def drained(self) -> dict[str, float]:
        """Means per token since the last call: KL in nats, share where the teacher is right, m."""
        sums, self.sums = self.sums, {}
        tokens = float(sums.pop("tokens", torch.zeros(())))
        return {name: float(total) / tokens for name, total in sums.items()} if tokens else {}
