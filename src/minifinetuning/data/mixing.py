"""Replay: general text in every step, in place of a part of the specialized one, or beside it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from minifinetuning.data.sequences import REPLAY_COLUMN, Sequences
from minifinetuning.errors import InputError

Slot = tuple[int, ...]
"""The sequences that one place of a batch stands for: one, or with added replay any number."""


def replayed_per_new(new_data_fraction: float, replay_share: float | None) -> float:
    """How many replayed sequences there are for each specialized one.

    `replay_share` where they are added; else they fill what `new_data_fraction` leaves of a step.
    """
    return (1 - new_data_fraction) / new_data_fraction if replay_share is None else replay_share


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

    def __getitems__(self, slots: Sequence[Slot]) -> list[Mapping[str, Any]]:
        """All sequences of a batch, which may be more than its slots; DataLoader asks for them."""
        return [self[index] for slot in slots for index in slot]


class ReplayOrder(Sampler[Slot]):
    """The order in which `MixedSequences` are trained on, for any number of processes.

    Either text is gone through in passes, each in an order of its own; where one is used up in the
    middle of a step, its next pass begins. An epoch is as many steps as a pass over the specialized
    text has. The order depends on nothing but the sizes, the mixture and the seed, so that a run
    resumed at any step goes on with it.
    """

    def __init__(self, specialized: int, replay: int, new: int, slots: int, seed: int) -> None:
        """Each step has `slots`, of all processes, with `new` specialized sequences in them."""
        self.epoch, self.slots = 0, slots
        self.specialized = _Passes(specialized, seed)
        self.replay = _Passes(replay, seed + 1, offset=specialized)
        self.steps = max(1, specialized // new)

    def set_epoch(self, epoch: int) -> None:
        """Go on at this epoch, as PyTorch's distributed sampler does."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.slots

    def __iter__(self) -> Iterator[Slot]:
        first = self.epoch * self.steps
        for step in range(first, first + self.steps):
            yield from self.step(step)

    def step(self, step: int) -> Iterator[Slot]:
        """Batches of one pass follow one another by process: this is how they are dealt out."""
        raise NotImplementedError


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

    def order(self, specialized: int, replay: int, seed: int) -> "MixedOrder":
        """The order of texts of so many sequences."""
        return MixedOrder(specialized, replay, self, seed)


class MixedOrder(ReplayOrder):
    """Every process has exactly `mixture.new` specialized sequences in every step.

    They are the first ones of its forward passes, and replayed ones are the rest.
    """

    def __init__(self, specialized: int, replay: int, mixture: Mixture, seed: int) -> None:
        new, slots = (mixture.processes * each for each in (mixture.new, mixture.sequences))
        super().__init__(specialized, replay, new, slots, seed)
        self.mixture, self.new = mixture, new

    def step(self, step: int) -> Iterator[Slot]:
        mixture, old = self.mixture, self.slots - self.new
        specialized = iter(range(step * self.new, (step + 1) * self.new))
        replay = iter(range(step * old, (step + 1) * old))
        for first in range(0, mixture.sequences, mixture.batch_size):
            for _ in range(mixture.processes):
                for place in range(first, first + mixture.batch_size):
                    if place < mixture.new:
                        yield (self.specialized[next(specialized)],)
                    else:
                        yield (self.replay[next(replay)],)


@dataclass(frozen=True)
class Addition:
    """Whole steps of `sequences` specialized ones, of all processes, and `share` times as many more
    that are replayed.
    """

    share: Fraction
    sequences: int

    @classmethod
    def of(cls, share: float, sequences: int) -> "Addition":
        """The share is the decimal number that a person wrote: a tenth is one in ten, exactly."""
        return cls(Fraction(str(share)), sequences)

    def order(self, specialized: int, replay: int, seed: int) -> "AddedOrder":
        """The order of texts of so many sequences."""
        return AddedOrder(specialized, replay, self, seed)


class AddedOrder(ReplayOrder):
    """Replayed sequences go with specialized ones, spread evenly over all of a run.

    By the n-th specialized sequence floor(n * share) replayed ones have been seen, whatever the
    batch size, the accumulated passes and the processes.
    """

    def __init__(self, specialized: int, replay: int, addition: Addition, seed: int) -> None:
        sequences = addition.sequences
        super().__init__(specialized, replay, sequences, sequences, seed)
        self.addition = addition

    def step(self, step: int) -> Iterator[Slot]:
        for number in range(step * self.slots, (step + 1) * self.slots):
            replayed = range(self._replayed_before(number), self._replayed_before(number + 1))
            yield (self.specialized[number], *(self.replay[each] for each in replayed))

    def _replayed_before(self, number: int) -> int:
        share = self.addition.share
        return number * share.numerator // share.denominator


class _Passes:
    """`[n]`: the n-th sequence of endless passes over `count`, each shuffled by its own seed.

    They count from `offset` on.
    """

    def __init__(self, count: int, seed: int, offset: int = 0) -> None:
        self.count, self.seed, self.offset = count, seed, offset
        self._pass = -1
        self._order: list[int] = []

    def __getitem__(self, number: int) -> int:
        nth, place = divmod(number, self.count)
        if nth != self._pass:
            generator = torch.Generator().manual_seed((self.seed << 24) + nth)
            self._pass, self._order = nth, torch.randperm(self.count, generator=generator).tolist()
        return self.offset + self._order[place]
