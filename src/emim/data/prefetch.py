"""Read the test views of many videos, prefetched by worker processes.

The number of prefetched videos is bounded: a worker gets the next path only when a video has been yielded, and no
process keeps a list of all paths.

Shape suffixes: V views of a video, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from emim.data.dataset import init_worker
from emim.data.loader import ErrorsAsItems
from emim.data.preprocessing import Preprocessing, raw_test_views
from emim.data.video import open_video
from emim.errors import ProcessError, VideoError

__all__ = ["AHEAD_PER_WORKER", "VideoViews", "lost_workers_named", "read_views"]

AHEAD_PER_WORKER = 2
"""Videos assigned to a worker and not yet yielded."""
_MOST_NAMED = 8
"""Number of videos that an error names."""
_NOTICE_SECONDS = 3.0


class VideoViews(Dataset[Tensor]):
    """Test views, not yet normalised, by the path of a video; see `raw_test_views`."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    def __getitem__(self, path: str | os.PathLike[str]) -> Tensor:
        """views_VCTHW of a whole video, uint8.

        Raises:
            VideoError: the video cannot be read.
        """
        with open_video(path) as reader:
            return raw_test_views(reader, self.preprocessing)


def read_views(
    paths: Iterable[Path], preprocessing: Preprocessing, *, workers: int = 0, pin_memory: bool = False
) -> Iterator[tuple[Path, Tensor | VideoError]]:
    """Read videos in their order.

    Ending the iteration early ends the workers.

    Args:
        paths: video files or folders of frames; taken one by one, at most `AHEAD_PER_WORKER` for each worker and one
            more ahead of the one yielded.
        preprocessing: which views.
        workers: reader processes of one thread each; 0 reads in this process.
        pin_memory: for views that go to a GPU.

    Yields:
        (path, views_VCTHW), uint8 as of `raw_test_views`; in place of the views the error of a video that cannot be
        read.

    Raises:
        ProcessError: a worker has died. If torch notices that while the caller works, it raises a RuntimeError there,
            which `lost_workers_named` turns into this error.
    """
    asked: deque[Path] = deque()

    def noted() -> Iterator[Path]:
        for path in paths:
            asked.append(path)
            yield path

    loader: DataLoader[Any] = DataLoader(
        ErrorsAsItems(VideoViews(preprocessing)),
        sampler=noted(),  # a data set is indexed by whatever its sampler gives
        batch_size=None,
        num_workers=workers,
        worker_init_fn=_init_reader,
        collate_fn=_unchanged,
        prefetch_factor=AHEAD_PER_WORKER if workers else None,
        pin_memory=pin_memory,
    )
    with lost_workers_named(asked):
        for outcome in _received(loader):
            path = asked.popleft()
            if not isinstance(outcome, Tensor | VideoError):
                raise outcome  # an error that is not of this video alone
            yield path, outcome


def _received(loader: DataLoader[Any]) -> Iterator[Any]:
    """The items of a loader; a lost worker is a RuntimeError as torch words it."""
    items = iter(loader)
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except (ConnectionError, EOFError, FileNotFoundError) as error:
            # A worker died before its memory was transferred. torch raises its own error as soon as the system has
            # reported the death, which interrupts the sleep.
            time.sleep(_NOTICE_SECONDS)
            raise RuntimeError("DataLoader worker (pid unknown) exited unexpectedly") from error
        yield item


@contextmanager
def lost_workers_named(asked: Iterable[Path] = ()) -> Iterator[None]:
    """Turn the error that torch raises when a loader process dies into a readable one.

    torch raises it wherever the main thread is at that moment, so this belongs around the whole loop.

    Args:
        asked: videos assigned to the workers, the oldest first; read when the error occurs.

    Raises:
        ProcessError: in place of torch's error.
    """
    try:
        yield
    except RuntimeError as error:
        found = re.search(r"DataLoader worker \(pid.*?\) (is killed by signal: [^.]*|exited unexpectedly)", str(error))
        if found is None:
            raise
        given = [str(path) for path in asked]
        more = f" and {len(given) - _MOST_NAMED} more" if len(given) > _MOST_NAMED else ""
        among = f", while it and the others were to read {', '.join(given[:_MOST_NAMED])}{more}" if given else ""
        raise ProcessError(
            f"a process that reads videos has ended ({found[1].removeprefix('is ')}){among}. Out of memory (fewer "
            "workers need less; in a container /dev/shm may be small), or a file that crashes the decoder: "
            "`emim doctor` finds those"
        ) from error


def _init_reader(worker_id: int) -> None:
    """Use one thread, and leave Ctrl-C to the main process, which ends the workers."""
    init_worker(worker_id)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _quiet_without_main


def _quiet_without_main(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Print no traceback if the main process ended or was interrupted while a worker was sending to it."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, traceback)


def _unchanged(item: Any) -> Any:
    return item
