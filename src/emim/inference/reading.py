"""Read a video of any kind for a network: its test views, and a record of the frames and crops in them.

A video is a path, the bytes of a video file, an array, tensor or iterator of frames, or an open reader.

Shape suffixes: V views of a video, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from emim.data.preprocessing import Preprocessing, crop_start, fit_frames, raw_test_views, test_indices, to_tensor
from emim.data.video import ArrayVideo, VideoInput, VideoReader, open_video
from emim.data.video.clip_source import check_frame_count
from emim.data.video.container import IN_MEMORY
from emim.errors import ConfigError, VideoError

__all__ = [
    "ReadVideo",
    "VideoInfo",
    "VideoSource",
    "View",
    "ViewReader",
    "can_be_sent",
    "describe_views",
    "is_file",
    "open_source",
    "refuse_fps_of_file",
    "source_name",
]

VideoSource: TypeAlias = VideoInput | NDArray[np.uint8] | Tensor | Iterable[NDArray[np.uint8] | Tensor] | VideoReader
"""A path of a file or folder of frames; bytes or a binary file object of a video file; frames [T, H, W, 3], uint8 RGB,
as an array, a tensor or an iterable of frames [H, W, 3]; or an open reader, which stays open."""

_ITERATOR_BYTES = 1 << 30
"""Most memory for the frames of an iterator."""
FRAMES = Path("<frames>")
"""Name of frames in memory."""


@dataclass(frozen=True)
class View:
    """The frames and the crop of one view: one input of the network.

    Attributes:
        clip: number of the test clip, from 0.
        crop: "left", "centre" or "right" of wide frames, "top", "centre" or "bottom" of tall ones; "whole" where
            frames are not cropped.
        box: left, top, width and height of the crop in pixels of the video.
        frames: frame numbers in the video, from 0; a frame of a short video may be there twice.
        times: seconds from the start of the video at which those frames begin.
    """

    clip: int
    crop: str
    box: tuple[int, int, int, int]
    frames: tuple[int, ...]
    times: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; times are rounded to a millisecond."""
        return {
            "clip": self.clip,
            "crop": self.crop,
            "box": list(self.box),
            "frames": list(self.frames),
            "times_s": [round(time, 3) for time in self.times],
        }


@dataclass(frozen=True)
class VideoInfo:
    """A video and the part of it that a network was given.

    Attributes:
        path: the file or folder; a name in angle brackets for a video in memory.
        duration: seconds of the whole video; of an iterator, of the frames taken from it.
        fps: average frames per second.
        num_frames: frames of the whole video; of an iterator, those taken from it.
        height: of a frame, in pixels.
        width: of a frame, in pixels.
        views: the views, clip by clip.
    """

    path: Path
    duration: float
    fps: float
    num_frames: int
    height: int
    width: int
    views: tuple[View, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "path": str(self.path),
            "duration_s": round(self.duration, 3),
            "fps": round(self.fps, 3),
            "frames": self.num_frames,
            "size": [self.width, self.height],
            "views": [view.to_dict() for view in self.views],
        }


class ReadVideo(NamedTuple):
    """The views of a video, and their record.

    Attributes:
        views_VCTHW: uint8, as of `emim.data.preprocessing.raw_test_views`.
        info: the video, its frames and crops.
    """

    views_VCTHW: Tensor
    info: VideoInfo


@dataclass(frozen=True)
class ViewReader:
    """Reads the test views of videos; can be sent to another process.

    Attributes:
        preprocessing: how views are made.
        fps: frames per second of arrays, tensors and iterators of frames; files have their own.
        start: seconds at which to begin; None for the start of the video.
        end: seconds before which to end; None for the end of the video.
    """

    preprocessing: Preprocessing
    fps: float | None = None
    start: float | None = None
    end: float | None = None

    def __call__(self, video: VideoSource) -> ReadVideo:
        """Read one video.

        An iterator of frames is taken up to `end`. Its frames are kept at the size of the network's input, since the
        frames of a view are known only at the end; more than 1 GiB of them is an error.

        Raises:
            VideoError: the video cannot be read, frames are no uint8 [H, W, 3] of one size, or there is no frame from
                `start` to `end`.
            ConfigError: frames without `fps`.
        """
        if _is_iterable_of_frames(video):
            return self._read_iterable(iter(video))  # type: ignore[arg-type]
        with open_source(video, self.fps, square_pixels=self.preprocessing.square_pixels) as reader:
            first, stop = reader.frame_range(self.start, self.end)
            check_frame_count(reader.path, stop - first, 2)
            views_VCTHW = raw_test_views(reader, self.preprocessing, first, stop)
            return ReadVideo(views_VCTHW, describe_views(reader, self.preprocessing, first, stop))

    def _read_iterable(self, frames: Iterator[NDArray[np.uint8] | Tensor]) -> ReadVideo:
        pre, fps = self.preprocessing, _checked_fps(self.fps)
        first = 0 if self.start is None else _frame_from(self.start, fps)
        stop = None if self.end is None else _frame_from(self.end, fps)
        kept: list[NDArray[np.uint8]] = []
        shape: tuple[int, ...] | None = None
        taken = 0
        for frame in itertools.islice(frames, stop):
            taken += 1
            if taken <= first:
                continue
            frame_HWC = _checked_frame(frame, taken - 1, shape)
            shape = frame_HWC.shape
            small_HWC = fit_frames(to_tensor(frame_HWC[None]), pre)[0].permute(1, 2, 0).numpy()
            # The views of shrunk frames are those of the frames to the bit: to fit them again changes nothing.
            kept.append(np.ascontiguousarray(small_HWC if small_HWC.size < frame_HWC.size else frame_HWC))
            if len(kept) * kept[0].nbytes > _ITERATOR_BYTES:
                raise VideoError(
                    FRAMES,
                    f"the first {len(kept)} of an iterator take {_ITERATOR_BYTES >> 20} MiB; give a file, every n-th "
                    "frame with a lower fps, or start and end",
                )
        if taken and not kept:
            raise VideoError(FRAMES, f"the iterator ends after {taken} frames, {taken / fps:.3g} s: before the start")
        reader = ArrayVideo(np.stack(kept) if kept else np.empty((0, 1, 1, 3), np.uint8), fps)
        views_VCTHW = raw_test_views(reader, pre)
        assert shape is not None
        return ReadVideo(views_VCTHW, describe_views(reader, pre, offset=first, total=taken, size=shape[:2]))


def describe_views(
    reader: VideoReader,
    pre: Preprocessing,
    first: int = 0,
    stop: int | None = None,
    *,
    offset: int = 0,
    total: int | None = None,
    size: tuple[int, ...] | None = None,
) -> VideoInfo:
    """Describe the views that `raw_test_views(reader, pre, first, stop)` makes.

    Args:
        reader: the open video.
        pre: how views are made.
        first: first frame of the part that is looked at.
        stop: frame after its last one; None for the end.
        offset: number in the whole video of the reader's frame 0, where the reader holds a part of it.
        total: frames of the whole video, if not those of the reader.
        size: height and width in the video, if not those of the reader.
    """
    stop = reader.num_frames if stop is None else stop
    height, width = size or (reader.height, reader.width)
    crops = _crops(pre, height, width)
    views = []
    for clip in range(pre.clips):
        indices = (test_indices(pre, stop - first, reader.fps, clip) + first).tolist()
        frames = tuple(index + offset for index in indices)
        times = tuple(reader.time_of(index) + offset / reader.fps for index in indices)
        views += [View(clip, name, box, frames, times) for name, box in crops]
    return VideoInfo(
        path=reader.path,
        duration=reader.duration if total is None else total / reader.fps,
        fps=reader.fps,
        num_frames=reader.num_frames if total is None else total,
        height=height,
        width=width,
        views=tuple(views),
    )


def open_source(
    video: VideoSource, fps: float | None = None, *, square_pixels: bool = True
) -> AbstractContextManager[VideoReader]:
    """Open any kind of video; iterables of frames are taken to their end and kept whole.

    Args:
        video: see `VideoSource`.
        fps: frames per second of frames in memory; files have their own.
        square_pixels: as of `open_video`.

    Returns:
        A context manager that gives the reader, and closes it unless it was given open.

    Raises:
        VideoError: the video cannot be read, or frames are no uint8 [T, H, W, 3].
        ConfigError: frames without `fps`.
    """
    if isinstance(video, VideoReader):
        return nullcontext(video)
    if _is_file(video):
        return open_video(video, square_pixels=square_pixels)  # type: ignore[arg-type]
    return ArrayVideo(video, _checked_fps(fps))  # type: ignore[arg-type]


def source_name(video: VideoSource) -> Path:
    """Return the name of a video in results and error messages."""
    if isinstance(video, VideoReader):
        return video.path
    if isinstance(video, str | os.PathLike):
        return Path(video)
    return IN_MEMORY if _is_file(video) else FRAMES


def can_be_sent(video: VideoSource) -> bool:
    """True for videos that another process can read: paths and bytes."""
    return isinstance(video, str | os.PathLike | bytes | bytearray)


def is_file(video: VideoSource) -> bool:
    """True for videos that have a frame rate of their own: files, folders, their content, and open readers."""
    return isinstance(video, VideoReader) or _is_file(video)


def refuse_fps_of_file(video: VideoSource, fps: float | None) -> None:
    """Raise ConfigError if a frame rate is given for a video that has its own."""
    if fps is not None and is_file(video):
        raise ConfigError(f"fps={fps:g} is for frames in memory; a video file has its own frame rate, so leave fps out")


def _is_file(video: VideoSource) -> bool:
    return isinstance(video, str | os.PathLike | bytes | bytearray | memoryview) or hasattr(video, "read")


def _is_iterable_of_frames(video: VideoSource) -> bool:
    return not is_file(video) and not hasattr(video, "shape") and isinstance(video, Iterable)


def _checked_fps(fps: float | None) -> float:
    if fps is None:
        raise ConfigError("frames have no frame rate of their own: give fps, their number per second")
    if not 0 < fps < math.inf:
        raise ConfigError(f"fps must be above 0, got {fps}")
    return float(fps)


def _frame_from(moment: float, fps: float) -> int:
    """First frame that starts at or after a moment; as `VideoReader.frame_range`, of a video without known end."""
    if not 0 <= moment < math.inf:
        raise VideoError(FRAMES, f"a time of {moment} s: give seconds from 0, the start of the video")
    return math.ceil(moment * fps - 1e-6)


def _checked_frame(frame: Any, number: int, shape: tuple[int, ...] | None) -> NDArray[np.uint8]:
    """One frame of an iterator as an array."""
    frame_HWC = np.asarray(frame.detach().cpu() if isinstance(frame, Tensor) else frame)
    if frame_HWC.dtype != np.uint8 or frame_HWC.ndim != 3 or frame_HWC.shape[2] != 3 or 0 in frame_HWC.shape:
        raise VideoError(
            FRAMES,
            f"frame {number} is {frame_HWC.dtype} of shape {list(frame_HWC.shape)}; give uint8 RGB of shape [H, W, 3] "
            "with values from 0 to 255",
        )
    if shape is not None and frame_HWC.shape != shape:
        raise VideoError(
            FRAMES,
            f"frame {number} has the shape {list(frame_HWC.shape)}, those before it {list(shape)}; give one size",
        )
    return np.ascontiguousarray(frame_HWC)


def _crops(pre: Preprocessing, height: int, width: int) -> list[tuple[str, tuple[int, int, int, int]]]:
    """Name and box (left, top, width, height) of the crops of a frame, in pixels of the video."""
    if pre.fit != "crop":
        return [("whole", (0, 0, width, height))]
    short = min(height, width)
    names = ("left", "centre", "right") if width >= height else ("top", "centre", "bottom")
    crops = []
    for place in range(3) if pre.crops_per_clip == 3 else (1,):
        top, left = (crop_start(pre.size * side // short, pre.size, place) for side in (height, width))
        scale = short / pre.size
        box = (round(left * scale), round(top * scale), short, short)
        crops.append((names[place], box))
    return crops
