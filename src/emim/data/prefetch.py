"""The test views of many videos, read ahead by worker processes.

What is ahead of the videos handed out is bounded, however many there are: a worker gets the next path only when a
video has been handed out, and no process keeps a list of them.

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

AHEAD_PER_WORKER = 2
"""Videos that a worker has been given and that have not been handed out."""
_MOST_NAMED = 8
"""Videos that an error names."""
_NOTICE_SECONDS = 3.0


class VideoViews(Dataset[Tensor]):
    """Unfinished test views by the path of a video; see `raw_test_views`."""

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
            more before they are handed out.
        preprocessing: which views.
        workers: processes that read, of one thread each; 0 reads in this one.
        pin_memory: for views that go to a GPU.

    Yields:
        (path, views_VCTHW), uint8 as of `raw_test_views`; in place of the views the error of a video that cannot be
        read.

    Raises:
        ProcessError: a worker has ended. Where torch notices that while the caller is at work, it raises a RuntimeError
            there, which `lost_workers_named` makes one of these.
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
    """What a loader gives."""
    items = iter(loader)
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except (ConnectionError, EOFError, FileNotFoundError) as error:
            # A worker has ended before its memory was handed over. Torch says so as soon as the system has told it,
            # which interrupts the sleep.
            time.sleep(_NOTICE_SECONDS)
            raise RuntimeError("DataLoader worker (pid unknown) exited unexpectedly") from error
        yield item


@contextmanager
def lost_workers_named(asked: Iterable[Path] = ()) -> Iterator[None]:
    """Turn the error that torch raises when a loader process ends into one for a person.

    torch raises it in whatever the main thread is doing at that moment, so this belongs around all of it.

    Args:
        asked: videos that the workers had been given, the oldest first; read when it happens.

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
    """One thread, and Ctrl-C left to the main process, which ends the workers."""
    init_worker(worker_id)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _quiet_without_main


def _quiet_without_main(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Print no traceback of a worker whose main process has ended, or been interrupted, while taking its memory."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, traceback)


def _unchanged(item: Any) -> Any:
    return item
