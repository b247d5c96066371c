"""Frames in memory, read through the same interface as video files.

Shapes: T frames, H height, W width, C the three colours red, green, blue.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emim.data.video.clip_source import Frames, VideoReader, check_frame_count
from emim.data.video.frame_folder import DEFAULT_FPS
from emim.errors import VideoError

if TYPE_CHECKING:
    import torch

__all__ = ["ArrayVideo"]

_NAME = Path("<frames>")


class ArrayVideo(VideoReader):
    """Reads frames that are in memory already. They are not copied, and must not change meanwhile.

    >>> with ArrayVideo(np.zeros((8, 64, 96, 3), np.uint8), fps=25) as reader:
    ...     reader.num_frames, reader.duration, reader.read([3, 4]).shape
    (8, 0.32, (2, 64, 96, 3))

    Args:
        frames: frames_THWC in RGB, uint8: an array, a tensor on any device, or an iterable of frame_HWC of one size
            (taken to its end).
        fps: frames per second.
        min_frames: fewest frames accepted.

    Raises:
        EmptyVideoError: there is no frame.
        SingleFrameError: one frame only, and `min_frames` is above 1.
        VideoError: another shape or type, frames of several sizes, or `fps` is not above 0.
    """

    def __init__(
        self,
        frames: Frames | torch.Tensor | Iterable[Frames | torch.Tensor],
        fps: float = DEFAULT_FPS,
        *,
        min_frames: int = 2,
    ) -> None:
        self.path = _NAME
        if not 0 < fps < float("inf"):
            raise VideoError(self.path, f"fps must be above 0, got {fps}")
        self._frames_THWC = _stack(frames)
        self.num_frames = len(self._frames_THWC)
        check_frame_count(self.path, self.num_frames, min_frames)
        self.fps = float(fps)
        self.duration = self.num_frames / self.fps
        self.rotation, self.mirrored = 0, False
        self.height, self.width = self._frames_THWC.shape[1:3]

    def _read_ascending(self, indices: Sequence[int]) -> Iterator[tuple[int, Frames]]:
        for index in indices:
            yield index, self._frames_THWC[index]

    def close(self) -> None:
        """Do nothing: the frames belong to the caller."""


def _stack(frames: Any) -> Frames:
    if not hasattr(frames, "shape"):
        listed = [_array(frame) for frame in frames]
        if not listed:
            return np.empty((0, 1, 1, 3), dtype=np.uint8)
        sizes = {frame_HWC.shape for frame_HWC in listed}
        if len(sizes) > 1:
            raise VideoError(_NAME, f"frames differ in shape: {', '.join(map(str, sorted(sizes)))}; give one size")
        frames = np.stack(listed)
    frames_THWC = _array(frames)
    if frames_THWC.dtype != np.uint8 or frames_THWC.ndim != 4 or frames_THWC.shape[3] != 3:
        raise VideoError(
            _NAME,
            f"are {frames_THWC.dtype} of shape {list(frames_THWC.shape)}; give uint8 RGB of shape [T, H, W, 3] with "
            "values from 0 to 255",
        )
    if 0 in frames_THWC.shape[1:]:
        raise VideoError(_NAME, f"have no pixels: shape {list(frames_THWC.shape)}")
    return frames_THWC


def _array(frames: Any) -> Frames:
    if hasattr(frames, "detach"):  # a tensor
        frames = frames.detach().cpu()
    return np.asarray(frames)
