"""Work in child processes that may crash or hang: such an item is reported, and the others go on.

A pool of `concurrent.futures` breaks as a whole when one process dies, and cannot stop one that hangs. Decoders
of damaged files do both at times.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from emim.errors import ConfigError, EmimError

Item = TypeVar("Item")
Result = TypeVar("Result")

_STOP_SECONDS = 3.0


@dataclass(frozen=True)
class WorkerLoss:
    """Stands for the result of an item whose process was lost: why, in words."""

    reason: str


def run_isolated(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int,
    time_limit: Callable[[Item], float] | None = None,
) -> Iterator[tuple[int, Result | WorkerLoss]]:
    """Call `function` for every item, each process doing one item at a time.

    Ending the iteration early (an interrupt, say) stops the processes; code in them that is running gets a
    `SystemExit`, so that it can remove what it has half written. The calling script needs the usual
    `if __name__ == "__main__"` guard.

    Args:
        function: defined in a module; it, the items and the results must be picklable. An exception that it
            raises ends its process, so it should return its errors.
        items: what to work on.
        workers: processes, at least 1.
        time_limit: the seconds that an item may take; None for no limit.

    Yields:
        (position of the item, its result) in the order in which they are finished; `WorkerLoss` as the result
        of an item whose process crashed or exceeded the limit.

    Raises:
        ConfigError: `workers` is below 1.
        EmimError: the processes do not start.
    """
    if workers < 1:
        raise ConfigError(f"workers={workers}: give at least 1")
    waiting = iter(range(len(items)))
    pool = [_Worker(function) for _ in range(min(workers, len(items)))]
    try:
        left = len(items)
        while left:
            for place, worker in enumerate(pool):
                outcome = worker.poll()
                if outcome is not None:
                    left -= 1
                    yield outcome
                if worker.lost:
                    pool[place] = worker = _Worker(function)
                if worker.idle and (position := next(waiting, None)) is not None:
                    item = items[position]
                    worker.give(position, item, None if time_limit is None else time_limit(item))
            busy = [worker for worker in pool if not worker.idle]
            if busy:
                wait([worker.connection for worker in busy], timeout=_patience(busy))
    finally:
        for worker in pool:
            worker.stop()
        for worker in pool:
            worker.finish()


class _Worker:
    """A process and the item that it is at."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        with _interrupts_ignored():  # inherited, so that Ctrl-C gives no traceback while the process starts
            self._process.start()
        theirs.close()
        self._position: int | None = None
        self._ready = self.lost = False
        self._limit: float | None = None
        self.deadline: float | None = None

    @property
    def idle(self) -> bool:
        return self._ready and self._position is None and not self.lost

    def give(self, position: int, item: Any, limit: float | None) -> None:
        self._position, self._limit = position, limit
        self.deadline = None if limit is None else time.monotonic() + limit
        with contextlib.suppress(BrokenPipeError):  # it died meanwhile: `poll` finds out
            self.connection.send(item)

    def poll(self) -> tuple[int, Any] | None:
        """The item's outcome if there is one by now."""
        if self.connection.poll():
            try:
                result = self.connection.recv()
            except (EOFError, ConnectionError):
                return self._lose(None)
            if not self._ready:
                self._ready = True
                return None
            return self._outcome(result)
        if self.deadline is not None and time.monotonic() > self.deadline:
            self._process.kill()
            return self._lose(f"took longer than {self._limit:.3g} s")
        return None

    def _lose(self, reason: str | None) -> tuple[int, WorkerLoss] | None:
        self._process.join()
        if not self._ready:
            raise EmimError(
                f"a worker process did not start (exit status {self._process.exitcode}); a script that starts "
                'workers needs the guard if __name__ == "__main__"'
            )
        self.lost = True
        self.connection.close()
        if self._position is None:
            return None
        return self._outcome(WorkerLoss(reason or f"its process crashed ({_exit_text(self._process.exitcode)})"))

    def _outcome(self, result: Any) -> tuple[int, Any]:
        assert self._position is not None
        outcome = self._position, result
        self._position = self.deadline = None
        return outcome

    def stop(self) -> None:
        self.connection.close()
        if self._position is not None:
            self._process.terminate()

    def finish(self) -> None:
        self._process.join(_STOP_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _patience(busy: list[_Worker]) -> float | None:
    """Seconds until the first of these exceeds its limit."""
    deadlines = [worker.deadline for worker in busy if worker.deadline is not None]
    return max(0.0, min(deadlines) - time.monotonic()) + 0.01 if deadlines else None


def _exit_text(status: int | None) -> str:
    if status is not None and status < 0:
        return signal.Signals(-status).name
    return f"exit status {status}"


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(connection: Connection, function: Callable[[Any], Any]) -> None:
    """The life of a process: an item, its result, and so on until the other side closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the main process, which stops this one
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    connection.send(None)
    while True:
        try:
            item = connection.recv()
        except (EOFError, ConnectionError):
            return
        result = function(item)
        try:
            connection.send(result)
        except ConnectionError:  # the main process has been killed meanwhile
            return
