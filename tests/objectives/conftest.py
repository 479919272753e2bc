"""Tokens whose figures are known by hand, and teachers at random."""

import math

import pytest
import torch

from minifinetuning.objectives import TokenProbabilities


@pytest.fixture(scope="session")
def four_tokens():
    """`four_tokens(dtype)`: wrong, hopelessly wrong, right, and right with a label of 0.9.

    The student is sure of one token, cannot tell two, then three (one twice as likely), then 20.
    """

    def make(dtype=torch.float64):
        top = torch.zeros(4, 20, dtype=dtype)
        top[0, 7] = 1
        top[1, :2] = 1 / 2
        top[2, :3] = torch.tensor([1 / 4, 1 / 2, 1 / 4])
        top[3] = 1 / 20

        def top_logits(count):
            assert count == 20
            return top.log() + math.pi

        student, label, highest = (
            torch.tensor(values, dtype=dtype)
            for values in ([0.1, 0.2, 0.3, 0.4], [0.2, 0.0, 0.6, 0.9], [0.5, 1.0, 0.6, 0.9])
        )
        return TokenProbabilities(student, label, highest, top_logits)

    return make


@pytest.fixture(scope="session")
def random_teachers():
    """`random_teachers(seed, dtype, size)`: probabilities (3, 40, size) and labels (3, 40).

    From flat to peaked, right at every other token.
    """

    def make(seed, dtype=torch.float64, size=9):
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(3, 40, size, generator=generator, dtype=torch.float64)
        logits *= torch.tensor([0.5, 2.0, 8.0]).view(3, 1, 1)
        labels = torch.randint(size, (3, 40), generator=generator)
        labels[:, ::2] = logits.argmax(-1)[:, ::2]
        return logits.softmax(-1).to(dtype), labels

    return make
