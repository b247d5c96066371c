"""A `DataLoader` whose errors arrive as they were raised.

torch's loader rebuilds an error of a worker from a text of many lines, and turns an error whose class needs
more than that, as `VideoError` does, into a RuntimeError. Here a worker hands the error over as a value, and
the main process raises it: type, path and one-line message stay.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset, default_collate

from emim.data.dataset import init_worker
from emim.errors import EmimError

_MAX_DEFAULT_WORKERS = 8


class ClipLoader(DataLoader[Any]):
    """`torch.utils.data.DataLoader` for `TrainClips` and `TestClips`.

    Batches are dictionaries with tensors along a new first axis. Workers use one thread each unless
    `worker_init_fn` says otherwise. The data set itself is `loader.dataset.dataset`.

    Args:
        dataset: map-style data set whose items default collation takes.
        **options: as for `DataLoader`, but for `collate_fn`.

    Raises (while iterating):
        VideoError: a video cannot be read; carries the path. Other EmimError likewise.
    """

    def __init__(self, dataset: Dataset[Any], **options: Any) -> None:
        options.setdefault("worker_init_fn", init_worker)
        super().__init__(ErrorsAsItems(dataset), collate_fn=_collate, **options)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(batch, EmimError):
                raise batch
            yield batch


class ErrorsAsItems(Dataset[Any]):
    """A data set whose item is the error where reading it raised one of this package's."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # map-style

    def __getitem__(self, item: Any) -> Any:
        try:
            return self.dataset[item]
        except EmimError as error:
            return error


def _collate(items: list[Any]) -> Any:
    failed = next((item for item in items if isinstance(item, EmimError)), None)
    return default_collate(items) if failed is None else failed


def default_workers() -> int:
    """Loader processes where nothing was said: one per core that this process may use, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MAX_DEFAULT_WORKERS)
