"""The thread that fills the ring buffer, and takes a lost source up again."""

from __future__ import annotations

import threading
import time
from collections import deque

import av

from emim.errors import EmimError, SourceError, VideoError
from emim.live.backoff import Backoff
from emim.live.clip import ClipShape
from emim.live.connection import Connection, connect, why
from emim.live.frames import FrameCounts, FrameReader
from emim.live.ring import FrameRing
from emim.live.source import Source

_STOP_SECONDS = 0.5


class Capture:
    """Reads a source in a thread of its own.

    A camera or address that fails at first is an error; once it has given a frame, losing it is not: it is opened again
    after waits that double. A file, or a recording on a server, ends at its end; a broken file ends where it breaks.

    Args:
        source: what to read.
        shape: how the ring keeps a frame.
        ring: where frames go; closed at the end.
        timeout: seconds without data after which a network source counts as lost.
        retries: attempts in a row to open a lost source.
        backoff: the waits before them.

    Attributes:
        notices: what happened, in words; the reader takes them out on the left.
        counts: what became of the frames.
        reconnects: times that a lost source came back.
        error: why it ended, where that is an error; to be looked at when the ring is closed.
    """

    def __init__(
        self,
        source: Source,
        shape: ClipShape,
        ring: FrameRing,
        *,
        timeout: float,
        retries: int,
        backoff: Backoff | None = None,
    ) -> None:
        self._source = source
        self._ring = ring
        self._timeout = timeout
        self._retries = retries
        self._backoff = backoff or Backoff()
        self._stopped = threading.Event()
        self.notices: deque[str] = deque()
        self.counts = FrameCounts()
        self.reconnects = 0
        self.error: BaseException | None = None
        self._frames = FrameReader(shape, self._stopped, self.counts)
        # A daemon, because FFmpeg may wait for a dead server or camera when the process is to end.
        self._thread = threading.Thread(target=self._main, name="emim-capture", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """End reading; waits half a second at most, since the source may hang."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)

    def _main(self) -> None:
        try:
            self._read_all()
        except BaseException as error:  # the thread that predicts raises it
            self.error = error
        finally:
            self._ring.close()

    def _read_all(self) -> None:
        lost_at: float | None = None
        while not self._stopped.is_set():
            before = self.counts.decoded
            try:
                connection = connect(self._source, self._timeout)
            except EmimError as error:
                if lost_at is None:
                    raise
                loss = error.reason if isinstance(error, SourceError) else str(error)
            else:
                breakage = self._read(connection, lost_at)
                if self._stopped.is_set() or self._is_over(connection, breakage):
                    return
                loss = breakage or "the stream ended"
                if self.counts.decoded > before:
                    lost_at = time.monotonic()
                elif lost_at is None:
                    raise SourceError(self._source.name, f"gave no frame ({loss}); check what it sends")
            self._wait(loss)

    def _read(self, connection: Connection, lost_at: float | None) -> str | None:
        """Frames of a connection into the ring; why it broke, None for an ordinary end."""
        is_new = True
        try:
            for frame in self._frames.read(connection):
                if is_new:
                    is_new = False
                    self._greet(connection, lost_at)
                self._ring.put(frame)
        except av.FFmpegError as error:
            return why(error, self._timeout)
        finally:
            connection.close()
        return None

    def _greet(self, connection: Connection, lost_at: float | None) -> None:
        """The first frame of a connection is there."""
        self._backoff.reset()
        if lost_at is None:
            self.notices.append(f"{self._source.name}: {connection.describe()}")
        else:
            self.reconnects += 1
            self.notices.append(f"{self._source.name}: back after {time.monotonic() - lost_at:.1f} s")

    def _is_over(self, connection: Connection, breakage: str | None) -> bool:
        """Whether the source has come to its end, rather than being lost."""
        if self._source.kind == "file":
            if not self.counts.decoded:
                raise VideoError(self._source.address, "none of its packets decodes to a frame; export it again")
            if breakage is not None:
                self.notices.append(f"{self._source.name}: breaks off ({breakage})")
            return True
        return connection.paced and breakage is None

    def _wait(self, loss: str) -> None:
        """Wait before the next attempt.

        Raises:
            SourceError: there were enough attempts.
        """
        if self._backoff.attempts >= self._retries:
            attempts = f"{self._retries} attempt{'s' * (self._retries != 1)} to reconnect failed"
            raise SourceError(
                self._source.name, f"lost, and {attempts} ({loss})" if self._retries else f"lost ({loss})"
            )
        seconds = self._backoff.wait()
        attempt = f"attempt {self._backoff.attempts} of {self._retries}"
        self.notices.append(f"{self._source.name}: lost ({loss}); {attempt} to reconnect in {seconds:g} s")
        self._stopped.wait(seconds)
