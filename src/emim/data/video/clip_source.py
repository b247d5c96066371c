"""The interface through which every clip is read: a video file, a folder of frames, or frames in memory.

Shapes: T frames asked for, H height, W width, C the three colours red, green, blue.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from emim.errors import EmptyVideoError, FrameIndexError, SingleFrameError, VideoError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Excerpt", "Frames", "VideoReader", "check_frame_count"]

Frames = npt.NDArray[np.uint8]


class VideoReader(ABC):
    """Random access to the frames of one video. A context manager; open one per item and per process.

    Attributes:
        path: the video file or the folder of frames; `<bytes>` or `<frames>` for one in memory.
        num_frames: exact number of frames that a decode of the whole video gives.
        fps: average frames per second.
        duration: seconds from the start of the first frame to the end of the last.
        rotation: degrees clockwise (0, 90, 180 or 270) by which stored frames are turned to stand upright.
            Returned frames have been turned already; this is for information.
        mirrored: True if stored frames are mirrored left to right after that; returned frames have been already.
        height: height in pixels of the returned (upright) frames.
        width: width in pixels of the returned (upright) frames.
    """

    path: Path
    num_frames: int
    fps: float
    duration: float
    rotation: int
    mirrored: bool
    height: int
    width: int

    def time_of(self, index: int) -> float:
        """Return the seconds from the start of the first frame to that of frame `index`.

        Exact where the file stores usable time stamps, else `index / fps`.

        Raises:
            FrameIndexError: there is no such frame.
        """
        self._check_index(index)
        return index / self.fps

    def frame_range(self, start: float | None = None, end: float | None = None) -> tuple[int, int]:
        """Find the frames of a range of time: those that start in [start, end).

        Args:
            start: seconds; None for the start of the video.
            end: seconds; None, or a time after the end, for the end of the video.

        Returns:
            The first frame, and the frame after the last one.

        Raises:
            VideoError: the range holds no frame, or a bound is negative or no number.
        """
        for bound in (start, end):
            if bound is not None and not (math.isfinite(bound) and bound >= 0):
                raise VideoError(self.path, f"a time of {bound} s: give seconds from 0, the start of the video")
        first = 0 if start is None else self._frame_from(start)
        stop = self.num_frames if end is None else self._frame_from(end)
        if first >= stop:
            raise VideoError(
                self.path,
                f"holds no frame {self.describe_range(start, end)}; it has {self.num_frames} frames in "
                f"{self.duration:.3g} s",
            )
        return first, stop

    def describe_range(self, start: float | None, end: float | None) -> str:
        """Put a range of time into words, for messages."""
        return f"from {start or 0:g} s to {self.duration if end is None else end:g} s"

    def _frame_from(self, moment: float) -> int:
        """First frame that starts at or after a moment; `num_frames` where there is none."""
        # The tolerance keeps 0.1 s * 30 fps = 3.0000000000000004 at frame 3, as in manifests.
        return min(math.ceil(moment * self.fps - 1e-6), self.num_frames)

    def read(self, indices: Sequence[int]) -> Frames:
        """Return exactly the frames at these indices, counted in presentation order from 0.

        Args:
            indices: frame numbers in any order, repeats allowed (each frame is decoded once).

        Returns:
            frames_THWC, uint8 RGB, upright, contiguous, one frame per index; [0, H, W, 3] for no index.

        Raises:
            FrameIndexError: an index is negative or not below `num_frames` (also an `IndexError`).
            VideoError: the data of a frame that is needed are damaged; names the frame.
        """
        places: dict[int, list[int]] = {}
        for place, index in enumerate(indices):
            number = int(index)
            self._check_index(number)
            places.setdefault(number, []).append(place)
        frames_THWC = np.empty((len(indices), self.height, self.width, 3), dtype=np.uint8)
        for number, frame_HWC in self._read_ascending(sorted(places)) if places else ():
            for place in places[number]:
                frames_THWC[place] = frame_HWC
        return frames_THWC

    def _check_index(self, index: int) -> None:
        if not 0 <= index < self.num_frames:
            raise FrameIndexError(
                self.path,
                f"frame index {index} is outside 0..{self.num_frames - 1}; the video has {self.num_frames} frames",
            )

    @abstractmethod
    def _read_ascending(self, indices: Sequence[int]) -> Iterator[tuple[int, Frames]]:
        """Yield (index, frame_HWC) for valid, strictly ascending indices."""

    @abstractmethod
    def close(self) -> None:
        """Release file handles and decoder memory; closing twice is harmless."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Excerpt(VideoReader):
    """A range of the frames of another reader, which is closed with it.

    Frames are counted from the start of the range. `time_of` stays on the clock of the whole video, so that a frame
    can be found again in a player.

    Args:
        reader: the whole video.
        first: its frame that becomes frame 0.
        stop: its frame after the last one.

    Attributes:
        first: number in the whole video of frame 0.

    Raises:
        FrameIndexError: the range is empty or reaches outside the video.
    """

    def __init__(self, reader: VideoReader, first: int, stop: int) -> None:
        if not 0 <= first < stop <= reader.num_frames:
            raise FrameIndexError(
                reader.path,
                f"frames {first} to {stop} (exclusive) are not a range within its {reader.num_frames} frames",
            )
        self._reader = reader
        self.first = first
        self.path = reader.path
        self.num_frames = stop - first
        self.fps = reader.fps
        self.rotation, self.mirrored = reader.rotation, reader.mirrored
        self.height, self.width = reader.height, reader.width
        after = reader.duration if stop == reader.num_frames else reader.time_of(stop)
        self.duration = after - reader.time_of(first)

    def time_of(self, index: int) -> float:
        """Return the seconds from the start of the whole video to that of frame `index` of the range."""
        self._check_index(index)
        return self._reader.time_of(self.first + index)

    def _read_ascending(self, indices: Sequence[int]) -> Iterator[tuple[int, Frames]]:
        for index, frame_HWC in self._reader._read_ascending([self.first + index for index in indices]):
            yield index - self.first, frame_HWC

    def close(self) -> None:
        """Close the whole video."""
        self._reader.close()


def check_frame_count(path: Path, num_frames: int, min_frames: int) -> None:
    """Refuse videos with fewer than `min_frames` frames.

    Raises:
        EmptyVideoError: there is no frame at all.
        SingleFrameError: there is one frame and `min_frames` asks for more.
        VideoError: there are several frames, yet fewer than `min_frames`.
    """
    if num_frames == 0:
        raise EmptyVideoError(path, "holds no frame; remove it or export it again")
    if num_frames >= min_frames:
        return
    if num_frames == 1:
        raise SingleFrameError(
            path, "has one frame only, so it holds no motion; remove it, or open it with min_frames=1"
        )
    raise VideoError(path, f"has {num_frames} frames, fewer than the {min_frames} asked for (min_frames)")
