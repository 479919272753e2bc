"""Replay: general text in every step, beside the specialized one, in one fixed proportion."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from minifinetuning.data.sequences import REPLAY_COLUMN, Sequences
from minifinetuning.errors import InputError


class MixedSequences(Dataset[Mapping[str, Any]]):
    """Specialized sequences, and behind them the replayed ones, each of which says that it is."""

    def __init__(self, specialized: Sequences, replay: Sequences) -> None:
        self.specialized, self.replay = specialized, replay

    def __len__(self) -> int:
        return len(self.specialized) + len(self.replay)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        if index < len(self.specialized):
            return self.specialized[index]
        return {**self.replay[index - len(self.specialized)], REPLAY_COLUMN: True}


@dataclass(frozen=True)
class Mixture:
    """What one process trains on in one step: `new` of its `sequences` are specialized.

    A step is `accumulation` forward passes of `batch_size` sequences in each of `processes`.
    """

    batch_size: int
    accumulation: int
    processes: int
    new: int

    @property
    def sequences(self) -> int:
        """Sequences of one process in one step."""
        return self.batch_size * self.accumulation

    @property
    def is_separate(self) -> bool:
        """Whether each forward pass is of one text alone."""
        return self.new % self.batch_size == 0

    @classmethod
    def of(
        cls, new_data_fraction: float, batch_size: int, accumulation: int, processes: int
    ) -> "Mixture":
        """The mixture of which the share `new_data_fraction` is specialized (the paper's nu).

        Raises InputError where that is not a whole number of sequences, or leaves none of either.
        """
        sequences = batch_size * accumulation
        wanted = new_data_fraction * sequences
        new = round(wanted)
        if abs(wanted - new) > 1e-6 or not 0 < new < sequences:
            raise InputError(
                f"--new_data_fraction {new_data_fraction} of {sequences} sequences "
                "(--per_device_train_batch_size x --gradient_accumulation_steps) must be a whole "
                f"number from 1 to {sequences - 1}: choose another fraction, or more sequences"
            )
        return cls(batch_size, accumulation, processes, new)


class MixedOrder(Sampler[int]):
    """The order in which `MixedSequences` are trained on, for any number of processes.

    Every process has exactly `mixture.new` specialized sequences in every step, the first ones of
    its forward passes, and replayed ones in the rest. Either text is gone through in passes, each
    in an order of its own; where one is used up in the middle of a step, its next pass begins. An
    epoch is as many steps as a pass over the specialized text has. The order depends on nothing
    but the sizes, the mixture and the seed, so that a run resumed at any step goes on with it.
    """

    def __init__(self, specialized: int, replay: int, mixture: Mixture, seed: int) -> None:
        self.mixture, self.epoch = mixture, 0
        self._specialized = _Passes(specialized, seed)
        self._replay = _Passes(replay, seed + 1)
        self._offset = specialized
        self.steps = max(1, specialized // (mixture.new * mixture.processes))

    def set_epoch(self, epoch: int) -> None:
        """Go on at this epoch, as PyTorch's distributed sampler does."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.mixture.sequences * self.mixture.processes

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * self.steps
        for step in range(first, first + self.steps):
            yield from self._step(step)

    def _step(self, step: int) -> Iterator[int]:
        """Batches of one pass follow one another by process: this is how they are dealt out."""
        mixture = self.mixture
        new = mixture.processes * mixture.new
        specialized = iter(range(step * new, (step + 1) * new))
        old = mixture.processes * mixture.sequences - new
        replay = iter(range(step * old, (step + 1) * old))
        for slot in range(0, mixture.sequences, mixture.batch_size):
            for _ in range(mixture.processes):
                for place in range(slot, slot + mixture.batch_size):
                    if place < mixture.new:
                        yield self._specialized[next(specialized)]
                    else:
                        yield self._offset + self._replay[next(replay)]


class _Passes:
    """`[n]`: the n-th sequence of endless passes over `count`, each shuffled by its own seed."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self._pass = -1
        self._order: list[int] = []

    def __getitem__(self, number: int) -> int:
        nth, place = divmod(number, self.count)
        if nth != self._pass:
            generator = torch.Generator().manual_seed((self.seed << 24) + nth)
            self._pass, self._order = nth, torch.randperm(self.count, generator=generator).tolist()
        return self._order[place]
