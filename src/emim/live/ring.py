"""The newest frames of a source, in bounded memory.

Shape suffixes: C channels, H height, W width.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LiveFrame:
    """A frame as the network needs it.

    Attributes:
        time: seconds on the source's own clock since its first frame.
        captured: when it came, on `time.monotonic()`; of a file that is played, when it was to be shown.
        pixels_CHW: uint8, cut to the view.
        run: number of the stretch without interruption that it belongs to; frames of two runs make no clip.
    """

    time: float
    captured: float
    pixels_CHW: Tensor
    run: int


class FrameRing:
    """A ring buffer between the thread that reads and the one that predicts: a new frame overwrites the oldest.

    Frames closer together than `spacing` are not all kept, so that the ring spans `capacity` x `spacing` seconds
    whatever the frame rate; the newest frame always is. A frame of a new run empties the ring.

    Args:
        capacity: frames, at least 2.
        spacing: seconds.

    Attributes:
        count: frames put in so far.
    """

    def __init__(self, capacity: int, spacing: float) -> None:
        if capacity < 2:
            raise ValueError(f"capacity must be at least 2, got {capacity}")
        self._frames: deque[LiveFrame] = deque(maxlen=capacity)
        self._spacing = spacing
        self._changed = threading.Condition()
        self._closed = False
        self.count = 0

    def put(self, frame: LiveFrame) -> None:
        """Add the newest frame."""
        with self._changed:
            frames = self._frames
            if frames and frames[-1].run != frame.run:
                frames.clear()
            if len(frames) >= 2 and frames[-1].time - frames[-2].time < self._spacing:
                frames.pop()
            frames.append(frame)
            self.count += 1
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """Whether no frame will come any more."""
        with self._changed:
            return self._closed

    def close(self) -> None:
        """No frame will come any more; nobody waits for one after that."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait(self, seen: int, timeout: float) -> bool:
        """Wait until `count` is above `seen`, the ring is closed, or `timeout` seconds are over.

        Returns:
            Whether there is a new frame.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self.count > seen, timeout)
            return self.count > seen

    def frames(self) -> tuple[int, list[LiveFrame]]:
        """`count`, and the frames that are kept, oldest first: all of one run."""
        with self._changed:
            return self.count, list(self._frames)
