"""Predict uploads: decoding in isolated processes, the network on one video at a time, a bounded queue."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from emim.data.preprocessing import finish_views
from emim.inference.recogniser import Prediction, Recogniser
from emim.isolation import WorkerLoss, call_isolated, preload
from emim.serve.intake import MODULES, Intake, Upload, take_in
from emim.serve.pictures import Pictures, StoppedError, draw_pictures
from emim.serve.settings import Refusal, Settings

__all__ = ["Answer", "Engine", "T"]

T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """The result of an upload.

    Attributes:
        predictions: best first.
        intake: the decoded upload.
        pictures: None if none were requested.
        seconds: wall-clock time of "read" (decoding), "predict" and "pictures", without waiting in the queue.
    """

    predictions: list[Prediction]
    intake: Intake
    pictures: Pictures | None
    seconds: dict[str, float]


class Engine:
    """Runs a trained network on uploads.

    Args:
        recogniser: the network.
        settings: limits.
    """

    def __init__(self, recogniser: Recogniser, settings: Settings) -> None:
        self.recogniser = recogniser
        self.settings = settings
        self.active = self.answered = self.refused = 0
        self._reading = asyncio.Semaphore(settings.readers)
        self._network = asyncio.Lock()
        self._readers = ThreadPoolExecutor(settings.readers, "reader")
        self._runner = ThreadPoolExecutor(1, "network")
        self._stopping = False
        self._stops: set[threading.Event] = set()
        preload(MODULES)
        self._readers.submit(self._warm_up)

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Hold a slot in the request queue.

        Raises:
            Refusal: the queue is full.
        """
        self._check_running()
        if self.active > self.settings.waiting:
            self.refused += 1
            raise Refusal(503, f"{self.active} videos are waiting already; try again in a minute.")
        self.active += 1
        try:
            yield
            self.answered += 1
        except Refusal:
            self.refused += 1
            raise
        finally:
            self.active -= 1

    async def answer(self, path: Path, name: str, *, topk: int, pictures: Path | None = None) -> Answer:
        """Predict an upload. When cancelled, stop its work and return once none of it runs any more.

        Args:
            path: the upload.
            name: the sender's name for it.
            topk: number of classes.
            pictures: an empty folder for pictures; None for no pictures.

        Raises:
            Refusal: it cannot be read within the limits.
        """
        stopped = threading.Event()
        self._stops.add(stopped)
        try:
            seconds: dict[str, float] = {}
            copy = None if pictures is None else path.with_name("copy.mp4")
            async with self._reading:
                self._check_running()
                with _timed(seconds, "read"):
                    intake = await _in_thread(self._readers, stopped, lambda: self._read(path, name, copy, stopped))
            async with self._network:
                self._check_running()
                with _timed(seconds, "predict"):
                    predictions = await _in_thread(self._runner, stopped, lambda: self._predict(intake, name, topk))
                drawn = None
                if pictures is not None and copy is not None:
                    label = predictions[0].label
                    with _timed(seconds, "pictures"):
                        drawn = await _in_thread(
                            self._runner,
                            stopped,
                            lambda: draw_pictures(self.recogniser, intake, copy, name, label, pictures, stopped),
                        )
            return Answer(predictions, intake, drawn, seconds)
        except StoppedError:
            raise _stopping() from None
        finally:
            self._stops.discard(stopped)

    def begin_to_stop(self) -> None:
        """Refuse new and waiting requests, and signal the running ones to stop."""
        self._stopping = True
        for stopped in list(self._stops):
            stopped.set()

    def stop(self) -> None:
        """Call `begin_to_stop` and wait until all work has ended."""
        self.begin_to_stop()
        self._readers.shutdown(cancel_futures=True)
        self._runner.shutdown(cancel_futures=True)

    def _check_running(self) -> None:
        if self._stopping:
            raise _stopping()

    def _warm_up(self) -> None:
        """Start the fork server of the readers, which takes seconds, before the first request needs it."""
        nothing = Upload(Path("nothing"), "nothing", self.recogniser.preprocessing, self.settings.max_seconds)
        call_isolated(take_in, nothing, self.settings.reading)

    def _read(self, path: Path, name: str, copy: Path | None, stopped: threading.Event) -> Intake:
        settings = self.settings
        pre = self.recogniser.preprocessing
        upload = Upload(path, name, pre, settings.max_seconds, copy, settings.overlay_seconds)
        outcome = call_isolated(take_in, upload, settings.reading, stopped=stopped)
        if isinstance(outcome, Refusal):
            raise outcome
        if isinstance(outcome, WorkerLoss):
            raise _refusal_of(outcome, name, settings)
        return outcome

    def _predict(self, intake: Intake, name: str, topk: int) -> list[Prediction]:
        views_VCTHW = finish_views(torch.from_numpy(intake.views_VCTHW), self.recogniser.preprocessing)
        return self.recogniser.best(self.recogniser.score(views_VCTHW, name), topk)


def _stopping() -> Refusal:
    return Refusal(503, "The server is stopping.")


def _refusal_of(loss: WorkerLoss, name: str, settings: Settings) -> Refusal:
    if loss.kind == "time":
        return Refusal(
            504,
            f"{name}: decoding took longer than {settings.read_seconds:g} seconds; send a shorter or smaller video.",
        )
    if loss.kind == "memory":
        return Refusal(
            422, f"{name}: decoding needs more memory than {settings.read_mb} MB; send a video of smaller frames."
        )
    if loss.kind == "stopped":
        return _stopping()
    return Refusal(422, f"{name}: the decoder crashed on it ({loss.reason}); it is probably damaged, export it again.")


async def _in_thread(threads: ThreadPoolExecutor, stopped: threading.Event, call: Callable[[], T]) -> T:
    """Return the call's result. When this is cancelled, signal the call to stop and still wait for its end."""
    submitted = threads.submit(call)
    future = asyncio.wrap_future(submitted)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        stopped.set()
        if not submitted.cancel():  # it runs; cancelling `future` would end only the wait for it
            await asyncio.wait([future])
            future.exception()  # asyncio warns of exceptions that were never retrieved
        raise


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - started, 3)
