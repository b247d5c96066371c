"""A `DataLoader` that keeps the errors of its workers as they are, and can skip a few broken clips.

torch's loader rebuilds an error of a worker from its traceback as text, and turns an error whose class needs
more than one argument, such as `VideoError`, into a RuntimeError. Here a worker returns the error as a value, and
the main process raises it, so that type, path and one-line message are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, Dataset, default_collate

from emim.data.dataset import init_worker
from emim.environment import usable_cores
from emim.errors import BrokenClipsError, DataError, EmimError, VideoError

__all__ = ["ClipLoader", "ErrorsAsItems", "SkipBroken", "Skipped", "default_workers"]

_MAX_DEFAULT_WORKERS = 8
# Clips tried in place of a broken one before giving up: more in a row means that something else is wrong.
_MAX_TRIES = 16

Skipped = tuple[int, EmimError]
"""Position of a clip in its list, and why it cannot be read."""


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
