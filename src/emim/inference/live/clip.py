"""Keep the newest frames of a source in a ring buffer, and make clips of them for the network.

Shape suffixes: V views (one here), C channels, T frames of a clip, H height, W width.
"""

from __future__ import annotations

import dataclasses
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emim.data.preprocessing import Preprocessing, cut_views, finish_views
from emim.data.sampling import REFERENCE_FPS
from emim.errors import ConfigError

__all__ = ["SEGMENT_SPAN", "ClipShape", "FrameRing", "LiveFrame"]


@dataclass(frozen=True)
class LiveFrame:
    """A frame, reduced to the size of the network's input.

    Attributes:
        time: seconds on the source's own clock since its first frame.
        captured: time of arrival on `time.monotonic()`; for a file that is played, the time at which it was due.
        pixels_CHW: uint8, cropped to the view.
        run: number of the uninterrupted run of frames that it belongs to; a clip never spans two runs.
    """

    time: float
    captured: float
    pixels_CHW: Tensor
    run: int


class FrameRing:
    """A ring buffer between the thread that reads and the thread that predicts: a new frame replaces the oldest.

    Of frames closer together than `spacing` some are dropped, so that the ring spans `capacity` x `spacing` seconds
    at any frame rate; the newest frame is always kept. A frame of a new run empties the ring.

    Args:
        capacity: largest number of frames, at least 2.
        spacing: least seconds between frames.

    Attributes:
        count: number of frames added so far.
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
        """True if no more frames will be added."""
        with self._changed:
            return self._closed

    def close(self) -> None:
        """Mark the end of the frames, and wake all that wait for one."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait(self, seen: int, timeout: float) -> bool:
        """Wait until `count` is above `seen`, the ring is closed, or `timeout` seconds have passed.

        Returns:
            True if there is a new frame.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self.count > seen, timeout)
            return self.count > seen

    def frames(self) -> tuple[int, list[LiveFrame]]:
        """Return `count` and the frames in the ring, oldest first; all belong to one run."""
        with self._changed:
            return self.count, list(self._frames)


SEGMENT_SPAN = 2.0
"""Seconds of a clip if the network was trained on frames spread over whole videos."""
_KEPT_PER_STEP = 10  # frames kept between two frames of a clip: times are met to a twentieth of a step
_TOLERANCE = 0.5  # fraction of a step by which the oldest frame may be too recent


class ClipShape:
    """The clip that ends with the newest frame: `num_frames` frames evenly spread over `span` seconds, one view.

    Args:
        preprocessing: of the network; the view is the centre crop if it crops.
        span: seconds from the first to the last frame; None is the span of a clip in training for dense sampling,
            (num_frames * stride - 1) / 30, and `SEGMENT_SPAN` for segment sampling.

    Attributes:
        num_frames: T.
        span: seconds.
        step: seconds from one frame to the next.

    Raises:
        ConfigError: `span` is not above 0.
    """

    def __init__(self, preprocessing: Preprocessing, span: float | None = None) -> None:
        self._preprocessing = dataclasses.replace(preprocessing, clips=1, crops=1)
        self.num_frames = preprocessing.num_frames
        if span is None:
            dense = (preprocessing.num_frames * preprocessing.stride - 1) / REFERENCE_FPS
            span = dense if preprocessing.sampling == "dense" and dense > 0 else SEGMENT_SPAN
        if not 0 < span <= 3600:
            raise ConfigError(f"the span of a clip must be above 0 and at most 3600 seconds, got {span}")
        self.span = span
        self.step = span / max(self.num_frames - 1, 1)

    def new_ring(self) -> FrameRing:
        """Make a ring buffer that holds a clip at any frame rate."""
        steps = max(self.num_frames - 1, 1)
        return FrameRing(_KEPT_PER_STEP * steps + 2, self.step / _KEPT_PER_STEP)

    def shrink(self, frame_HWC: NDArray[np.uint8]) -> Tensor:
        """Resize and crop an RGB frame to the view; returns pixels_CHW in uint8."""
        return cut_views(frame_HWC[None], np.zeros((1, 1), dtype=np.int64), self._preprocessing)[0, :, 0]

    def is_covered(self, frames: Sequence[LiveFrame]) -> bool:
        """True if frames, in order of time, go back far enough for a clip that ends with the newest."""
        return bool(frames) and frames[-1].time - frames[0].time >= self.span - _TOLERANCE * self.step

    def choose(self, frames: Sequence[LiveFrame]) -> list[LiveFrame]:
        """Choose the T frames nearest to the times of the clip; if frames are few, some appear more than once.

        If they do not cover the whole span, the clip spans the frames that there are.

        Args:
            frames: in order of time, at least one.
        """
        times = [frame.time for frame in frames]
        first = max(times[0], times[-1] - self.span)
        return [frames[_nearest(times, place)] for place in np.linspace(first, times[-1], self.num_frames).tolist()]

    def views(self, frames: Sequence[LiveFrame]) -> Tensor:
        """Return views_VCTHW of a clip's frames: float32, normalised, V = 1."""
        pixels_CTHW = torch.stack([frame.pixels_CHW for frame in frames], dim=1)
        return finish_views(pixels_CTHW[None], self._preprocessing)


def _nearest(times: Sequence[float], place: float) -> int:
    """Return the position of the value nearest to `place` in an ascending sequence; of two equally near, the first."""
    after = bisect_left(times, place)
    if after == 0:
        return 0
    if after == len(times):
        return after - 1
    return after if times[after] - place < place - times[after - 1] else after - 1
