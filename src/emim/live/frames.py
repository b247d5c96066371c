"""The frames of an open source, as they come: decoded, upright, and as the network needs them.

Shape suffixes: H height, W width, C channels.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from emim.live.clip import ClipShape
from emim.live.clock import BACK, JUMP, StreamClock
from emim.live.connection import Connection
from emim.live.ring import LiveFrame

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_MOST_LATE = 1.0
"""Seconds behind at which packets are left out, up to the next key frame."""


@dataclass
class FrameCounts:
    """What became of the frames of a source.

    Attributes:
        decoded: frames decoded.
        late: left out without decoding, because decoding was too far behind.
        broken: packets that do not decode.
    """

    decoded: int = 0
    late: int = 0
    broken: int = 0


class FrameReader:
    """Frames of one source, over all its connections.

    Args:
        shape: how the ring keeps a frame.
        stopped: set to end reading.
        counts: kept up to date.
    """

    def __init__(self, shape: ClipShape, stopped: threading.Event, counts: FrameCounts) -> None:
        self._shape = shape
        self._stopped = stopped
        self._counts = counts
        self._reformatter = VideoReformatter()
        self._run = 0
        self._began: float | None = None  # when the first frame of all came

    def read(self, connection: Connection) -> Iterator[LiveFrame]:
        """The frames of a connection, each as soon as it is decoded, until the connection ends.

        Raises:
            av.FFmpegError: the connection broke, or the decoder cannot go on.
        """
        size: tuple[int, int] | None = None
        origin = 0.0
        stamp: float | None = None
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
                stamp = max(stamp, before)  # time stands still rather than going back by a little
            pixels_CHW = self._shape.shrink(self._upright(frame))
            yield LiveFrame(origin + stamp, captured, pixels_CHW, self._run)

    def _decoded(self, connection: Connection) -> Iterator[tuple[float, VideoFrame]]:
        """Decoded frames, each with the time at which it came.

        That is when its packet was due, or, of a file that is played, when the frame itself was: with B-frames, later
        packets are decoded before it.
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
                # Few decoders do not hand on what came with the packet.
                captured = frame.opaque if isinstance(frame.opaque, float) else came
                if connection.paced and self._stopped.wait(max(captured - time.monotonic(), 0.0)):
                    return
                yield captured, frame

    def _upright(self, frame: VideoFrame) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        frame_HWC = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        return np.rot90(frame_HWC, k=round(frame.rotation / 90))


def _stamp(packet: Packet[VideoStream]) -> float | None:
    ticks = packet.pts if packet.dts is None else packet.dts
    return None if ticks is None or packet.time_base is None else float(ticks * packet.time_base)


def _ahead(packet: Packet[VideoStream]) -> float:
    """Seconds by which a packet is decoded before its frame is shown."""
    if packet.pts is None or packet.dts is None or packet.time_base is None:
        return 0.0
    return min(max(float((packet.pts - packet.dts) * packet.time_base), 0.0), JUMP)
