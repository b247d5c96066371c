"""Read videos ahead in worker processes, in their order.

The distance ahead is bounded, however many videos there are: a worker gets the next one only when a result has been
handed out, and no process keeps a list of them.

Shape suffixes: V views of a video, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from emim.data.dataset import init_worker
from emim.data.loader import ErrorsAsItems
from emim.data.preprocessing import Preprocessing, raw_test_views
from emim.data.video import open_video
from emim.errors import EmimError, ProcessError, VideoError

__all__ = ["AHEAD_PER_WORKER", "VideoViews", "lost_workers_named", "prefetch", "read_views"]

V = TypeVar("V")
R = TypeVar("R")

__all__ = ["AHEAD_PER_WORKER", "VideoViews", "lost_workers_named", "read_views"]

AHEAD_PER_WORKER = 2
"""Videos that a worker has been given and whose results have not been handed out."""
_MOST_NAMED = 8
"""Number of videos that an error names."""
_NOTICE_SECONDS = 3.0


class VideoViews(Dataset[Tensor]):
    """Test views of videos before normalisation, indexed by path; see `raw_test_views`."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    def __getitem__(self, path: str | os.PathLike[str]) -> Tensor:
        """Return views_VCTHW of a whole video, uint8.

        Raises:
            VideoError: the video cannot be read.
        """
        with open_video(path, square_pixels=self.preprocessing.square_pixels) as reader:
            return raw_test_views(reader, self.preprocessing)


def read_views(
    paths: Iterable[Path], preprocessing: Preprocessing, *, workers: int = 0, pin_memory: bool = False
) -> Iterator[tuple[Path, Tensor | VideoError]]:
    """`prefetch` of `VideoViews`: yields (path, views_VCTHW or the error of that video)."""
    return prefetch(paths, VideoViews(preprocessing).__getitem__, workers=workers, pin_memory=pin_memory)


def prefetch(
    videos: Iterable[V],
    read: Callable[[V], R],
    *,
    workers: int = 0,
    pin_memory: bool = False,
    in_worker: Callable[[V], bool] = lambda video: True,
    name: Callable[[V], object] = str,
) -> Iterator[tuple[V, R | VideoError]]:
    """Read videos in worker processes, in their order.

    Ending the iteration early ends the workers.

    Args:
        videos: taken one by one, at most `AHEAD_PER_WORKER` for each worker and one more before their results are
            handed out.
        read: from a video to its result, in a worker; it can be pickled.
        workers: processes that read, of one thread each; 0 reads in this process.
        pin_memory: put tensors of the results into page-locked memory, for the way to a GPU.
        in_worker: false for videos that cannot be sent to another process; they are read in this one.
        name: name of a video in error messages.

    Yields:
        (video, result); in place of the result the error of a video that cannot be read.

    Raises:
        ProcessError: a worker has ended. Where torch notices that while the caller is at work, it raises a RuntimeError
            there, which `lost_workers_named` turns into a ProcessError.
    """
    asked: deque[tuple[V, Any]] = deque()  # with the result where this process has read it
    names: deque[object] = deque()

    def taken() -> Iterator[V | _ReadHere]:
        for video in videos:
            here = bool(workers) and not in_worker(video)
            names.append(name(video))
            asked.append((video, items[video] if here else None))
            yield _ReadHere() if here else video

    items = ErrorsAsItems(_Reads(read))
    loader: DataLoader[Any] = DataLoader(
        items,
        sampler=taken(),  # a data set is indexed by whatever its sampler gives
        batch_size=None,
        num_workers=workers,
        worker_init_fn=_init_reader,
        collate_fn=_unchanged,
        prefetch_factor=AHEAD_PER_WORKER if workers else None,
        pin_memory=pin_memory,
    )
    with lost_workers_named(names):
        for received in _received(loader):
            video, result = asked.popleft()
            names.popleft()
            outcome = received if result is None else result
            if isinstance(outcome, EmimError) and not isinstance(outcome, VideoError):
                raise outcome  # an error that concerns more than this video
            yield video, outcome


class _ReadHere:
    """Sent to a worker in place of a video that the main process has read, which keeps the order."""


class _Reads(Dataset[Any]):
    """A data set that is indexed by videos."""

    def __init__(self, read: Callable[[Any], Any]) -> None:
        self._read = read

    def __getitem__(self, video: Any) -> Any:
        return None if isinstance(video, _ReadHere) else self._read(video)


def _received(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield the items of a loader; a worker that is lost while sending one gives torch's own error."""
    items = iter(loader)
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except (ConnectionError, EOFError, FileNotFoundError) as error:
            # A worker has ended before its memory was handed over. The signal handler of torch raises the error of
            # that during the sleep.
            time.sleep(_NOTICE_SECONDS)
            raise RuntimeError("DataLoader worker (pid unknown) exited unexpectedly") from error
        yield item


@contextmanager
def lost_workers_named(asked: Iterable[object] = ()) -> Iterator[None]:
    """Replace the error that torch raises when a loader process ends by a readable one.

    torch raises it in whatever the main thread is doing at that moment, so this context belongs around all of that.

    Args:
        asked: names of the videos that the workers were reading, oldest first; read when the error occurs.

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
    """Print no traceback of a worker whose main process was ended or interrupted while it received a result."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, traceback)


def _unchanged(item: Any) -> Any:
    return item
