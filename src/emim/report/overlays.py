"""Draw the motion of a clip over it, small enough to be embedded in a page.

Shape suffixes: H and W pixels of a frame, C colours, 2 axes (x to the right, y down), h and w the grid of a field.
"""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

from emim.data.manifest import ClipEntry
from emim.data.preprocessing import Preprocessing
from emim.data.video import VideoReader, open_video
from emim.data.video.clip_source import Frames
from emim.data.video.write import write_video
from emim.motion.animation import full_colour_length
from emim.motion.drawing import Picture, draw
from emim.motion.video import FrameMotion, video_motion


class SubsampledVideo(VideoReader):
    """Every n-th frame of an excerpt of a video, presented as a whole video.

    Args:
        reader: the open video; the caller closes it.
        first: index of the first frame.
        stop: index after the last frame.
        most: maximum number of frames; n follows from it.
    """

    def __init__(self, reader: VideoReader, first: int, stop: int, most: int) -> None:
        every = -(-(stop - first) // most)
        self._reader = reader
        self._frames = range(first, stop, every)
        self.path = reader.path
        self.num_frames = len(self._frames)
        self.fps = reader.fps / every
        self.duration = self.num_frames / self.fps
        self.rotation, self.mirrored = reader.rotation, reader.mirrored
        self.height = reader.height
        self.width = reader.width

    def _read_ascending(self, indices: Sequence[int]) -> Iterator[tuple[int, Frames]]:
        frames_THWC = self._reader.read([self._frames[index] for index in indices])
        yield from zip(indices, frames_THWC, strict=True)

    def close(self) -> None:
        pass


_SIDE = 280
"""Longest side of a frame in pixels; two of them are side by side."""
_SECONDS = 3.0
_MOST_FRAMES = 36
"""Maximum number of frames of an overlay: a page of eight should neither take minutes nor many megabytes."""
_SHORTEST = 1.5
"""Minimum duration of an overlay in seconds: clips of a few frames would flicker by."""
_SLOWEST = 4
_QUALITY = 30
"""The encoder's crf: between small and clear."""
_ONE_WAY = 0.5
"""Length of the mean displacement over the mean length, from which the motion counts as going one way."""
_AT_REST = 0.01
"""Mean displacement as a share of the longest side, below which hardly anything moves."""
_WAYS = ("right", "lower right", "down", "lower left", "left", "upper left", "up", "upper right")


@dataclass(frozen=True)
class Overlay:
    """An embedded video and its poster.

    Attributes:
        mp4: the video.
        poster: a frame of it, as JPEG.
        width: width of both in pixels.
        height: height of both in pixels.
        slowed: duration of the video over that of the clip.
        motion: description of the motion, as alternative text.
    """

    mp4: bytes
    poster: bytes
    width: int
    height: int
    slowed: float
    motion: str


def draw_overlay(model: nn.Module, pre: Preprocessing, entry: ClipEntry) -> Overlay:
    """Draw the first seconds of a clip: frames with arrows beside the colours of their motion.

    Args:
        model: a network with EMIM blocks.
        pre: the preprocessing that it was trained with.
        entry: the clip.

    Raises:
        VideoError: the video cannot be read.
        DataError: the clip's range holds no frame of it.
        UnknownNameError: the network has no EMIM block.
    """
    with open_video(entry.path) as reader:
        first, stop = entry.frame_range(reader.num_frames, reader.fps)
        stop = min(stop, first + max(2, round(_SECONDS * reader.fps)))
        subsampled = SubsampledVideo(reader, first, stop, _MOST_FRAMES)
        motion = list(video_motion(model, pre, subsampled, longest_side=_SIDE))
        fps = subsampled.fps
    motion = [_enlarged(item) for item in motion]
    longest = max(motion[0].frame_HWC.shape[:2])
    lengths = np.concatenate([np.hypot(*item.displacement_2hw).ravel() for item in motion])
    largest = full_colour_length(lengths, longest)
    pictures = [draw(item.frame_HWC, item.displacement_2hw, item.confidence_hw, largest) for item in motion]
    poster = pictures[len(pictures) // 2]
    height, width = (side // 2 * 2 for side in poster.shape[:2])
    slowed = min(_SLOWEST, max(1.0, _SHORTEST * fps / len(pictures)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "overlay.mp4"
        write_video(path, pictures, fps / slowed, crf=_QUALITY)
        mp4 = path.read_bytes()
    return Overlay(mp4, _jpeg(poster[:height, :width]), width, height, slowed, describe_motion(motion))


def describe_motion(motion: Sequence[FrameMotion]) -> str:
    """Describe in words where most of the motion goes, weighted by confidence."""
    shift_Q2 = np.concatenate([item.displacement_2hw.reshape(2, -1).T for item in motion])
    weight_Q = np.concatenate([item.confidence_hw.ravel() for item in motion]).astype(np.float64)
    if not weight_Q.any():
        weight_Q += 1
    length = float(np.average(np.hypot(*shift_Q2.T), weights=weight_Q))
    x, y = (float(value) for value in np.average(shift_Q2, axis=0, weights=weight_Q))
    if length < _AT_REST * max(motion[0].frame_HWC.shape[:2]):
        return "hardly anything moves"
    if math.hypot(x, y) < _ONE_WAY * length:
        return "places move in different directions"
    return f"most of what moves goes {_way(x, y)}"


def _way(x: float, y: float) -> str:
    way = _WAYS[round(math.atan2(y, x) / (math.pi / 4)) % len(_WAYS)]
    return way if way in ("up", "down") else f"to the {way}"


def _enlarged(item: FrameMotion) -> FrameMotion:
    """Enlarge frames that are smaller than shown, since arrows need room."""
    height, width = item.frame_HWC.shape[:2]
    factor = _SIDE / max(height, width)
    if factor <= 1:
        return item
    size = max(1, round(width * factor)), max(1, round(height * factor))
    frame_HWC = np.asarray(Image.fromarray(item.frame_HWC).resize(size, Image.Resampling.BICUBIC))
    return FrameMotion(frame_HWC, item.displacement_2hw * np.float32(factor), item.confidence_hw)


def _jpeg(picture_HWC: Picture) -> bytes:
    held = io.BytesIO()
    Image.fromarray(picture_HWC).save(held, format="JPEG", quality=80)
    return held.getvalue()
