"""The interface through which every clip is read, whether it lies in a video file or in a folder of frames.

Shapes: T frames asked for, H height, W width, C the three colours red, green, blue.
"""

from __future__ import annotations

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

Frames = npt.NDArray[np.uint8]


class VideoReader(ABC):
    """Random access to the frames of one video. A context manager; open one per item and per process.

    Attributes:
        path: the video file or the folder of frames.
        num_frames: exact number of frames that a decode of the whole video gives.
        fps: average frames per second.
        duration: seconds from the start of the first frame to the end of the last.
        rotation: degrees clockwise (0, 90, 180 or 270) by which stored frames are turned to stand upright.
            Returned frames have been turned already; this is for information.
        height: height in pixels of the returned (upright) frames.
        width: width in pixels of the returned (upright) frames.
    """

    path: Path
    num_frames: int
    fps: float
    duration: float
    rotation: int
    height: int
    width: int

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
            if not 0 <= number < self.num_frames:
                raise FrameIndexError(
                    self.path,
                    f"frame index {number} is outside 0..{self.num_frames - 1}; the video has {self.num_frames} frames",
                )
            places.setdefault(number, []).append(place)
        if not places:
            return np.empty((0, self.height, self.width, 3), dtype=np.uint8)
        frames_THWC: Frames | None = None
        for number, frame_HWC in self._read_ascending(sorted(places)):
            if frames_THWC is None:  # only now, because asking for the size may cost a decoded frame
                frames_THWC = np.empty((len(indices), *frame_HWC.shape), dtype=np.uint8)
            for place in places[number]:
                frames_THWC[place] = frame_HWC
        assert frames_THWC is not None
        return frames_THWC

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
