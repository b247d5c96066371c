"""Batches of training clips, and a `DataLoader` that keeps the errors of its workers and can skip a few broken clips.

The order of an epoch, its cut into batches and the draws of every clip depend on (seed, epoch) and the global
batch alone. An epoch is one order of all clips, cut into micro-batches 0, 1, 2, ...; process r of R takes
micro-batches r, r + R, r + 2R, ... So two processes see in a step what one process sees in two accumulated
batches, and a run can resume from any batch.

    batches = EpochBatches(len(clip_list), batch_size=8, seed=0)
    loader = ClipLoader(TrainClips(...), batch_sampler=batches, num_workers=4, persistent_workers=True)
    for epoch in range(epochs):
        batches.set_epoch(epoch)
        for batch in loader: ...  # batch["clip"], batch["label"], batch["index"]

torch's loader rebuilds an error of a worker from its traceback as text, and turns an error whose class needs
more than one argument, such as `VideoError`, into a RuntimeError. Here a worker returns the error as a value, and
the main process raises it, so that type, path and one-line message are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from emim.data.dataset import DrawIndex, init_worker
from emim.environment import usable_cores
from emim.errors import BrokenClipsError, ConfigError, DataError, EmimError, VideoError

__all__ = ["ClipLoader", "EpochBatches", "ErrorsAsItems", "SkipBroken", "Skipped", "default_workers"]

_MAX_DEFAULT_WORKERS = 8
# Clips tried in place of a broken one before giving up: more in a row means that something else is wrong.
_MAX_TRIES = 16

# Keeps the draws of the order apart from those of the items, whose seed is (seed, draw, index).
_ORDER_STREAM = 1

Skipped = tuple[int, EmimError]
"""Position of a clip in its list, and why it cannot be read."""


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


class ClipLoader(DataLoader[Any]):
    """`torch.utils.data.DataLoader` for `TrainClips` and `TestClips`.

    Batches are dictionaries with tensors along a new first axis. Workers use one thread each unless
    `worker_init_fn` says otherwise.

    Args:
        dataset: map-style data set whose items default collation takes; indexed by (draw, index) where clips
            may be skipped.
        max_skipped: number of different clips that may be broken. The place of a broken clip goes to the next
            readable one of the list, whatever the number of workers. For training only: testing must not
            replace a clip. 0 raises the first error.
        on_skip: called in the main process with (index, error) for every newly found broken clip.
        **options: as for `DataLoader`, but for `collate_fn`.

    Attributes:
        skipped: the broken clips found so far, by position in the list.

    Raises (while iterating):
        VideoError: a video cannot be read; carries the path. Other EmimError likewise.
        BrokenClipsError: more clips than `max_skipped` are broken; lists them.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        max_skipped: int = 0,
        on_skip: Callable[[int, EmimError], None] | None = None,
        **options: Any,
    ) -> None:
        options.setdefault("worker_init_fn", init_worker)
        self.max_skipped = max_skipped
        self.on_skip = on_skip
        self.skipped: dict[int, EmimError] = {}
        items = SkipBroken(dataset) if max_skipped else ErrorsAsItems(dataset)
        super().__init__(items, collate_fn=_collate, **options)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for batch, skipped in super().__iter__():
            for index, error in skipped:
                self._note(index, error)
            if isinstance(batch, EmimError):
                raise batch
            yield batch

    def _note(self, index: int, error: EmimError) -> None:
        if index in self.skipped:
            return
        self.skipped[index] = error
        if len(self.skipped) > self.max_skipped:
            raise BrokenClipsError(tuple(self.skipped.values()), self.max_skipped)
        if self.on_skip is not None:
            self.on_skip(index, error)


class ErrorsAsItems(Dataset[Any]):
    """A data set that returns an `EmimError` as the item instead of raising it."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # map-style

    def __getitem__(self, item: Any) -> Any:
        try:
            return self.dataset[item]
        except EmimError as error:
            return error


@dataclass(frozen=True)
class _Replaced:
    item: Any
    skipped: tuple[Skipped, ...]


class SkipBroken(Dataset[Any]):
    """A data set that replaces a broken clip by the next readable one, and reports it.

    Items are indexed by (draw, index). The replacement is drawn as it would be under its own index, so the content
    of an item still depends on (seed, draw, index) and the files alone.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # map-style

    def __getitem__(self, item: tuple[int, int]) -> Any:
        draw, first = item
        skipped: list[Skipped] = []
        for offset in range(min(_MAX_TRIES, len(self))):
            index = (first + offset) % len(self)
            try:
                found = self.dataset[draw, index]
            except (VideoError, DataError) as error:
                skipped.append((index, error))
            else:
                return _Replaced(found, tuple(skipped))
        return _Replaced(skipped[0][1], tuple(skipped))


def _collate(items: list[Any]) -> tuple[Any, list[Skipped]]:
    skipped = [pair for item in items if isinstance(item, _Replaced) for pair in item.skipped]
    items = [item.item if isinstance(item, _Replaced) else item for item in items]
    failed = next((item for item in items if isinstance(item, EmimError)), None)
    return (default_collate(items) if failed is None else failed), skipped


def default_workers(processes: int = 1) -> int:
    """Default number of loader processes: one per core that this process may use, at most 8.

    Args:
        processes: number of processes that share the cores, each with loader processes of its own.
    """
    cores = usable_cores()
    return min(max(1, cores // processes), _MAX_DEFAULT_WORKERS)
