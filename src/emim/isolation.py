"""Run untrusted work in child processes: one that crashes, hangs or takes too much is reported, and the others go on.

`run_isolated` works through a list in a pool of processes; `call_isolated` is for one untrusted item, in a process of
its own with limits on time, memory and file size. A pool of `concurrent.futures` breaks as a whole when one process
dies, and cannot stop one that hangs, as decoders of damaged files do at times.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal, TypeVar

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

from emim.errors import ConfigError, EmimError

__all__ = ["Item", "Limits", "Loss", "Result", "WorkerLoss", "call_isolated", "preload", "run_isolated"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_STOP_SECONDS = 3.0
_POLL_SECONDS = 0.2
_GRACE_SECONDS = 5
"""Processor seconds between the signal that a process has used up its time and the one that kills it."""
_processes = threading.Lock()
"""multiprocessing collects finished children whenever one starts, which two threads must not do at the same time."""

Loss = Literal["time", "memory", "crash", "stopped"]


@dataclass(frozen=True)
class WorkerLoss:
    """Result of an item whose process was lost.

    Attributes:
        reason: a clause for a message: "took longer than 2 s".
        kind: the same for programs.
    """

    reason: str
    kind: Loss = "crash"


@dataclass(frozen=True)
class Limits:
    """Limits of a process. On Windows only the wall-clock time is limited.

    Attributes:
        seconds: wall-clock time, and processor time.
        memory: bytes of address space beyond those at its start; None for no limit.
        file_size: bytes of any file that it writes; None for no limit.
    """

    seconds: float
    memory: int | None = None
    file_size: int | None = None

    def impose(self) -> None:
        """Apply the limits to this process, for the rest of its life."""
        if resource is None:
            return
        _lower(resource.RLIMIT_CORE, 0)
        # Where soft and hard limit are equal, Linux sends SIGKILL, which looks like a crash: damage, to the user.
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = math.ceil(used.ru_utime + used.ru_stime + self.seconds)
        _lower(resource.RLIMIT_CPU, seconds, seconds + _GRACE_SECONDS)
        if self.file_size is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead
            _lower(resource.RLIMIT_FSIZE, self.file_size)
        if self.memory is not None and (taken := _address_space()) is not None:
            _lower(resource.RLIMIT_AS, taken + self.memory)


def run_isolated(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int,
    time_limit: Callable[[Item], float] | None = None,
) -> Iterator[tuple[int, Result | WorkerLoss]]:
    """Call `function` for every item in a pool of processes, each with one item at a time.

    Ending the iteration early (an interrupt, say) stops the processes; running code gets a `SystemExit`, so that it
    can remove what it has half written. The calling script needs the usual `if __name__ == "__main__"` guard.

    Args:
        function: defined in a module; it, the items and the results must be picklable. An exception that it
            raises ends its process, so it should return its errors.
        items: arguments of `function`.
        workers: number of processes, at least 1.
        time_limit: seconds that an item may take; None for no limit.

    Yields:
        (position of the item, its result) in the order in which they finish; `WorkerLoss` as the result of an item
        whose process crashed or exceeded the time limit.

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


def preload(modules: Sequence[str]) -> None:
    """Make `call_isolated` start its processes as copies of one that has imported these modules; call it first."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        multiprocessing.get_context("forkserver").set_forkserver_preload(list(modules))


def call_isolated(
    function: Callable[[Item], Result],
    item: Item,
    limits: Limits,
    *,
    stopped: threading.Event | None = None,
) -> Result | WorkerLoss:
    """Call `function(item)` in a process that does nothing else before or after it.

    Thread-safe. Where the system has a fork server, the process is a copy of one that has only imported modules (see
    `preload`), and starts within milliseconds.

    Args:
        function: as for `run_isolated`. A `MemoryError` that the function raises counts as a loss.
        item: its argument.
        limits: limits of the process.
        stopped: event that makes this function kill the process.

    Returns:
        The function's result; `WorkerLoss` when the process crashed, exceeded a limit or was stopped.

    Raises:
        EmimError: the process does not start.
    """
    methods = multiprocessing.get_all_start_methods()
    worker = _Worker(function, limits, method="forkserver" if "forkserver" in methods else "spawn")
    given = False
    try:
        while stopped is None or not stopped.is_set():
            if worker.idle and not given:
                worker.give(0, item, limits.seconds)
                given = True
            worker.wait(_POLL_SECONDS)
            outcome = worker.poll()
            if outcome is not None:
                result: Result | WorkerLoss = outcome[1]
                return result
        return WorkerLoss("was stopped", "stopped")
    finally:
        worker.kill()


class _Worker:
    """A process and its current item."""

    def __init__(
        self,
        function: Callable[[Any], Any],
        limits: Limits | None = None,
        method: Literal["spawn", "forkserver"] = "spawn",
    ) -> None:
        context: Any = multiprocessing.get_context(method)
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, function, limits), daemon=True)
        # Interrupts are ignored, which is inherited, so that Ctrl-C gives no traceback while the process starts.
        with _processes, _interrupts_ignored():
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
        """Return (position, outcome) of the current item if it has finished, else None."""
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
            return self._lose(WorkerLoss(f"took longer than {self._limit:.3g} s", "time"))
        return None

    def _lose(self, loss: WorkerLoss | None) -> tuple[int, WorkerLoss] | None:
        with _processes:
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
        return self._outcome(loss or _crash(self._process.exitcode))

    def _outcome(self, result: Any) -> tuple[int, Any]:
        assert self._position is not None
        outcome = self._position, result
        self._position = self.deadline = None
        return outcome

    def wait(self, seconds: float) -> None:
        """Wait until `poll` may have something, the seconds are over, or the item's time is."""
        left = seconds if self.deadline is None else min(seconds, self.deadline - time.monotonic() + 0.01)
        wait([self.connection], timeout=max(0.0, left))

    def kill(self) -> None:
        """End the process at once."""
        self.connection.close()
        with _processes:
            self._process.kill()
            self._process.join()

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
    """Return the seconds until the first of these exceeds its limit."""
    deadlines = [worker.deadline for worker in busy if worker.deadline is not None]
    return max(0.0, min(deadlines) - time.monotonic()) + 0.01 if deadlines else None


def _crash(status: int | None) -> WorkerLoss:
    """Describe how a process ended: by the limit of its processor time, or by a crash."""
    if hasattr(signal, "SIGXCPU") and status == -signal.SIGXCPU:
        return WorkerLoss("took more processor time than its limit", "time")
    return WorkerLoss(f"its process crashed ({_exit_text(status)})")


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


def _lower(kind: int, soft: int, hard: int | None = None) -> None:
    """Set a limit; a lower one that is in force stays. The hard limit is the soft one if none is given."""
    _, existing = resource.getrlimit(kind)
    bound = soft if hard is None else hard
    bound = bound if existing == resource.RLIM_INFINITY else min(bound, existing)
    resource.setrlimit(kind, (min(soft, bound), bound))


def _address_space() -> int | None:
    """Return the bytes of address space of this process, or None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError):
        return None
    return pages * resource.getpagesize()


def _serve(connection: Connection, function: Callable[[Any], Any], limits: Limits | None = None) -> None:
    """Main loop of a child process: receive an item, send its result, until the other side closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the main process, which stops this one
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    connection.send(None)
    while True:
        try:
            item = connection.recv()
        except (EOFError, ConnectionError):
            return
        if limits is not None:
            limits.impose()
        try:
            result = function(item)
        except MemoryError:
            if limits is None:
                raise
            result = WorkerLoss("needs more memory than its limit", "memory")
        try:
            connection.send(result)
        except ConnectionError:  # the main process has been killed meanwhile
            return
