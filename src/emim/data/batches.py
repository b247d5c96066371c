"""Compose the batches of training clips, on any number of processes.

The order of an epoch, its cut into batches and the draws of every clip depend on (seed, epoch) and the global
batch alone. An epoch is one order of all clips, cut into micro-batches 0, 1, 2, ...; process r of R takes
micro-batches r, r + R, r + 2R, ... So two processes see in a step what one process sees in two accumulated
batches, and a run can go on from any batch.

    batches = EpochBatches(len(clip_list), batch_size=8, seed=0)
    loader = ClipLoader(TrainClips(...), batch_sampler=batches, num_workers=4, persistent_workers=True)
    for epoch in range(epochs):
        batches.set_epoch(epoch)
        for batch in loader: ...  # batch["clip"], batch["label"], batch["index"]
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from emim.data.dataset import DrawIndex
from emim.errors import ConfigError

__all__ = ["EpochBatches"]

# Keeps the draws of the order apart from those of the items, whose seed is (seed, draw, index).
_ORDER_STREAM = 1


class EpochBatches(Sampler[list[DrawIndex]]):
    """Batches of (draw, index) pairs: `index` is the clip, and (seed, draw, index) seeds its augmentation.

    The last clips, which do not fill an optimiser step, are left out of the epoch. If all clips together do not
    fill one, the epoch is one step that repeats the clips as often as needed, each time with new draws.

    Args:
        num_items: number of clips.
        batch_size: clips per process and batch, before `repeats`.
        seed: seed of the order.
        accumulate: batches per optimiser step.
        repeats: draws of each clip, side by side in the batch (repeated augmentation).
        rank: index of this process.
        world: number of processes.

    Raises:
        ConfigError: a value is out of range.
    """

    def __init__(
        self,
        num_items: int,
        batch_size: int,
        seed: int = 0,
        *,
        accumulate: int = 1,
        repeats: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not 0 <= rank < world:
            raise ConfigError(f"rank {rank} is outside 0..{world - 1}")
        for name, value in (
            ("num_items", num_items), ("batch_size", batch_size), ("accumulate", accumulate), ("repeats", repeats)
        ):  # fmt: skip
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        if seed < 0:
            raise ConfigError(f"seed must be at least 0, got {seed}")
        self.num_items = num_items
        self.batch_size = batch_size
        self.seed = seed
        self.accumulate = accumulate
        self.repeats = repeats
        self.rank = rank
        self.world = world
        self.epoch = 0
        self._first = 0

    @property
    def global_batch(self) -> int:
        """Clips per optimiser step over all processes, before `repeats`."""
        return self.batch_size * self.accumulate * self.world

    @property
    def sampler(self) -> EpochBatches:
        """The object on which trainers call `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, which starts at its first batch unless `start_at` named this epoch."""
        if epoch != self.epoch:
            self.epoch, self._first = epoch, 0

    def start_at(self, epoch: int, batch: int) -> None:
        """Start the next iteration at batch number `batch` of this process in `epoch`."""
        self.epoch, self._first = epoch, batch

    def __len__(self) -> int:
        """Batches of a whole epoch in this process."""
        return max(1, self.num_items // self.global_batch) * self.accumulate

    def __iter__(self) -> Iterator[list[DrawIndex]]:
        first, self._first = self._first, 0
        rounds = math.ceil(self.global_batch / self.num_items)
        order = self._order(rounds)
        for position in range(first, len(self)):
            start = (position * self.world + self.rank) * self.batch_size
            places = range(start, start + self.batch_size)
            yield [item for place in places for item in self._draws(order, place, rounds)]

    def _order(self, rounds: int) -> NDArray[np.int64]:
        rng = np.random.default_rng((self.seed, self.epoch, 0, _ORDER_STREAM))
        return np.concatenate([rng.permutation(self.num_items) for _ in range(rounds)])

    def _draws(self, order: NDArray[np.int64], place: int, rounds: int) -> Iterator[DrawIndex]:
        first = (self.epoch * rounds + place // self.num_items) * self.repeats
        for copy in range(self.repeats):
            yield first + copy, int(order[place])
