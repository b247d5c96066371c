"""Read a source in a thread of its own into the ring buffer, and reopen it when it is lost."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from emim.data.video.geometry import Orientation, orientation_of, to_display
from emim.errors import EmimError, SourceError, VideoError
from emim.inference.live.clip import ClipShape, FrameRing, LiveFrame
from emim.inference.live.connection import Connection, Source, connect, why

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream


__all__ = ["BACK", "JUMP", "Backoff", "Capture", "FrameCounts", "FrameReader", "StreamClock"]


class Backoff:
    """Waits that double from attempt to attempt, up to a limit.

    Args:
        first: seconds before the first attempt.
        longest: limit in seconds.

    Attributes:
        attempts: number of waits since the last `reset`.
    """

    def __init__(self, first: float = 0.5, longest: float = 30.0) -> None:
        if not 0 < first <= longest:
            raise ValueError(f"waits must be above 0 and rise, got {first} and {longest}")
        self._first = first
        self._longest = longest
        self._next = first
        self.attempts = 0

    def wait(self) -> float:
        """Return the seconds to wait before the next attempt."""
        seconds = self._next
        self._next = min(2 * seconds, self._longest)
        self.attempts += 1
        return seconds

    def reset(self) -> None:
        """Start again with the first wait, after a successful attempt."""
        self._next = self._first
        self.attempts = 0


JUMP = 2.0
"""Largest step forwards between time stamps in seconds; a larger one is a break in the stream."""
BACK = 1.0
"""Largest step backwards in seconds that is no break."""
_DRIFT = 1e-3  # relative rate by which the clock of the source may be slower than ours


class StreamClock:
    """Converts time stamps to our clock: when each packet was due, and so how late it is read.

    In a file, the first frame is due now and the others follow by their time stamps. In a live stream, the packet with
    the least delay so far sets the clock: time spent in buffers, which grows if reading is too slow, thus counts as
    lateness. A clock of the source that is slower than ours by up to 0.1 % does not.

    Args:
        paced: true for a file, whose frames are all available at once.
    """

    def __init__(self, *, paced: bool) -> None:
        self._paced = paced
        self._origin: float | None = None  # of the time stamps, on our clock
        self._stamp = 0.0
        self._now = 0.0

    def due(self, stamp: float | None, now: float) -> float:
        """Return the time at which a packet is due, on our clock; `now` if it has no time stamp.

        Args:
            stamp: its time stamp in seconds; packets come in decoding order.
            now: time at which it was read.
        """
        if stamp is None:
            return now
        broken = not -BACK <= stamp - self._stamp <= JUMP
        if self._origin is None or broken:
            self._origin = now - stamp
        elif not self._paced:
            drifted = self._origin + _DRIFT * (now - self._now)
            self._origin = min(drifted, now - stamp)
        self._stamp, self._now = stamp, now
        return self._origin + stamp


_MOST_LATE = 1.0
"""Delay in seconds above which packets are skipped up to the next key frame."""


@dataclass
class FrameCounts:
    """Counts of the frames of a source.

    Attributes:
        decoded: decoded frames.
        late: packets skipped because decoding was too far behind.
        broken: damaged packets, which do not decode.
    """

    decoded: int = 0
    late: int = 0
    broken: int = 0


class FrameReader:
    """Reads the frames of one source, over all its connections.

    Args:
        shape: reduces frames to the size of the network's input.
        stopped: event that ends reading.
        counts: updated while reading.
    """

    def __init__(self, shape: ClipShape, stopped: threading.Event, counts: FrameCounts) -> None:
        self._shape = shape
        self._stopped = stopped
        self._counts = counts
        self._reformatter = VideoReformatter()
        self._run = 0
        self._began: float | None = None  # when the first frame of all came

    def read(self, connection: Connection) -> Iterator[LiveFrame]:
        """Yield the frames of a connection, each as soon as it is decoded, until the connection ends.

        Raises:
            av.FFmpegError: the connection broke, or the decoder cannot go on.
        """
        size: tuple[int, int] | None = None
        origin = 0.0
        stamp: float | None = None
        orientation = Orientation()
        for captured, frame in self._decoded(connection):
            if self._began is None:
                self._began = captured
            before = stamp
            if frame.pts is not None and frame.time_base is not None:
                stamp = float(frame.pts * frame.time_base)
            else:
                stamp = 0.0 if before is None else before + 1 / connection.rate
            if before is None or not before - BACK <= stamp <= before + JUMP or size != (frame.height, frame.width):
                self._run += 1
                origin = captured - self._began - stamp
                size = frame.height, frame.width
            else:
                stamp = max(stamp, before)  # never go back by a little
            orientation = orientation_of(frame) or orientation
            frame_HWC = to_display(frame, orientation, connection.aspect, self._reformatter)
            pixels_CHW = self._shape.shrink(np.ascontiguousarray(frame_HWC))
            yield LiveFrame(origin + stamp, captured, pixels_CHW, self._run)

    def _decoded(self, connection: Connection) -> Iterator[tuple[float, VideoFrame]]:
        """Yield decoded frames, each with its time of arrival.

        That is when its packet was due or, for a file, when the frame itself was due: with B-frames, later packets are
        decoded before it.
        """
        clock = StreamClock(paced=connection.paced)
        context = connection.stream.codec_context
        skipping = False
        came = time.monotonic()
        for packet in connection.container.demux(connection.stream):
            if self._stopped.is_set():
                return
            if packet.size:
                now = time.monotonic()
                due = clock.due(_stamp(packet), now)
                packet.opaque = came = due + (_ahead(packet) if connection.paced else 0.0)
                if now - due > _MOST_LATE and not skipping:
                    skipping = True
                    context.flush_buffers()
                if skipping and (now - due > _MOST_LATE or not packet.is_keyframe):
                    self._counts.late += 1
                    continue
                skipping = False
                if connection.paced and self._stopped.wait(max(due - now, 0.0)):
                    return
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                self._counts.broken += 1
                continue
            for frame in frames:
                self._counts.decoded += 1
                # A few decoders do not pass on the opaque value of the packet.
                captured = frame.opaque if isinstance(frame.opaque, float) else came
                if connection.paced and self._stopped.wait(max(captured - time.monotonic(), 0.0)):
                    return
                yield captured, frame


def _stamp(packet: Packet[VideoStream]) -> float | None:
    ticks = packet.pts if packet.dts is None else packet.dts
    return None if ticks is None or packet.time_base is None else float(ticks * packet.time_base)


def _ahead(packet: Packet[VideoStream]) -> float:
    """Return the seconds from the decoding of a packet to the display of its frame."""
    if packet.pts is None or packet.dts is None or packet.time_base is None:
        return 0.0
    return min(max(float((packet.pts - packet.dts) * packet.time_base), 0.0), JUMP)


_STOP_SECONDS = 0.5


class Capture:
    """Reads a source in a thread of its own.

    A camera or address that cannot be opened at first is an error. If it is lost after its first frame, it is opened
    again after waits that double. A file, or a recording on a server, ends at its end; a broken file where it breaks.

    Args:
        source: the source.
        shape: reduces frames to the size of the network's input.
        ring: receives the frames; closed at the end.
        timeout: seconds without data after which a network source counts as lost.
        retries: largest number of attempts in a row to open a lost source.
        backoff: the waits before them.

    Attributes:
        notices: events in words, oldest first; the consumer removes them on the left.
        counts: counts of the frames.
        reconnects: number of times that a lost source was reopened.
        error: the error that ended reading, if any; valid when the ring is closed.
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
        # A daemon, because FFmpeg may block on a dead server or camera when the process ends.
        self._thread = threading.Thread(target=self._main, name="emim-capture", daemon=True)

    def start(self) -> None:
        """Start reading."""
        self._thread.start()

    def stop(self) -> None:
        """Stop reading; waits at most half a second, since the source may hang."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)

    def _main(self) -> None:
        try:
            self._read_all()
        except BaseException as error:  # raised again in the predicting thread
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
        """Read a connection into the ring; return why it broke, or None if it ended normally."""
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
        """Note the first frame of a connection."""
        self._backoff.reset()
        if lost_at is None:
            self.notices.append(f"{self._source.name}: {connection.describe()}")
        else:
            self.reconnects += 1
            self.notices.append(f"{self._source.name}: back after {time.monotonic() - lost_at:.1f} s")

    def _is_over(self, connection: Connection, breakage: str | None) -> bool:
        """True if the source has ended, false if it was lost."""
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
            SourceError: all attempts have failed.
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
