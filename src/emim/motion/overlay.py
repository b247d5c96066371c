"""A short video of a clip with its motion drawn on it, small enough to lie within a page or a notebook.

`draw_overlay` and `overlay_of` make the video, `show` puts it beside the prediction in a notebook or a terminal.

Shape suffixes: H and W pixels of a frame, C colours, 2 axes (x to the right, y down), h and w the grid of a field.
"""

from __future__ import annotations

import base64
import html
import io
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

from emim._moved import renamed
from emim.data.manifest import ClipEntry
from emim.data.preprocessing import Preprocessing
from emim.data.video import VideoReader, open_video
from emim.data.video.clip_source import Frames
from emim.data.video.write import write_video
from emim.errors import UnknownNameError
from emim.inference.reading import VideoSource, open_source, refuse_fps_of_file
from emim.inference.recogniser import Predictions, Recogniser
from emim.motion.animation import full_colour_length
from emim.motion.drawing import Picture, draw
from emim.motion.video import FrameMotion, video_motion

__all__ = ["Overlay", "Shown", "SubsampledVideo", "describe_motion", "draw_overlay", "overlay_of", "show"]


class SubsampledVideo(VideoReader):
    """Every n-th frame of a part of a video, read as a video of its own.

    Args:
        reader: the open video; it is not closed with this one.
        first: number of its first frame.
        stop: number of the frame after its last one.
        most: largest number of frames, from which n follows.
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
        """Release nothing: the caller closes the reader beneath."""
        pass


_SIDE = 280
"""Longest side of a frame, in pixels; two frames are side by side."""
_SECONDS = 3.0
_MOST_FRAMES = 36
"""Frames of an overlay: a page with eight overlays should take neither minutes nor many megabytes."""
_SHORTEST = 1.5
"""Least duration of an overlay in seconds; shorter clips are slowed down."""
_SLOWEST = 4
_QUALITIES = (30, 36, 42, 51)
"""crf of the encoder, from clear to small; the first one that keeps to the size is taken."""
_MOST_BYTES = 2 << 20
_ONE_WAY = 0.5
"""Least ratio of the mean displacement's length to the mean length, for motion that goes one way."""
_AT_REST = 0.01
"""Mean displacement, relative to the longest side, below which hardly anything moves."""
_WAYS = ("right", "lower right", "down", "lower left", "left", "upper left", "up", "upper right")


@dataclass(frozen=True)
class Overlay:
    """A video and its poster image.

    Attributes:
        mp4: the video, at most 2 MiB of frames without strong noise.
        poster: a frame of it, as JPEG.
        width: of both, in pixels.
        height: of both, in pixels.
        slowed: duration of the video relative to that of the clip.
        motion: the motion in words, as a text alternative.
    """

    mp4: bytes
    poster: bytes
    width: int
    height: int
    slowed: float
    motion: str


def draw_overlay(model: nn.Module, pre: Preprocessing, entry: ClipEntry) -> Overlay:
    """Draw the first three seconds of a clip of a list; see `overlay_of`.

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
        return overlay_of(model, pre, reader, first, stop)


def overlay_of(
    model: nn.Module,
    pre: Preprocessing,
    reader: VideoReader,
    first: int,
    stop: int,
    *,
    most_frames: int = _MOST_FRAMES,
) -> Overlay:
    """Draw the frames [first, stop) of a video: frames with arrows, beside the colours of their motion.

    Args:
        model: a network with EMIM blocks.
        pre: the preprocessing that it was trained with.
        reader: the open video.
        first: first frame.
        stop: frame after the last one.
        most_frames: largest number of frames drawn; of more, every n-th is drawn.

    Raises:
        VideoError: a frame cannot be read.
        UnknownNameError: the network has no EMIM block.
    """
    subsampled = SubsampledVideo(reader, first, stop, most_frames)
    motion = [_enlarged(item) for item in video_motion(model, pre, subsampled, longest_side=_SIDE)]
    longest = max(motion[0].frame_HWC.shape[:2])
    lengths = np.concatenate([np.hypot(*item.displacement_2hw).ravel() for item in motion])
    largest = full_colour_length(lengths, longest)
    pictures = [draw(item.frame_HWC, item.displacement_2hw, item.confidence_hw, largest) for item in motion]
    poster = pictures[len(pictures) // 2]
    height, width = (side // 2 * 2 for side in poster.shape[:2])
    slowed = min(_SLOWEST, max(1.0, _SHORTEST * subsampled.fps / len(pictures)))
    mp4 = _encode(pictures, subsampled.fps / slowed)
    return Overlay(mp4, _jpeg(poster[:height, :width]), width, height, slowed, describe_motion(motion))


def _encode(pictures: Sequence[Picture], fps: float) -> bytes:
    """Encode an mp4, in lower quality where it would be too large."""
    mp4 = b""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "overlay.mp4"
        for quality in _QUALITIES:
            write_video(path, pictures, fps, crf=quality)
            mp4 = path.read_bytes()
            if len(mp4) <= _MOST_BYTES:
                break
    return mp4


def describe_motion(motion: Sequence[FrameMotion]) -> str:
    """Describe the main direction of motion in words; places are weighted by their confidence."""
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
    """Enlarge frames that are smaller than an overlay, since arrows need room."""
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


_SHOWN_SECONDS = 6.0
_SHOWN_FRAMES = 60


@dataclass(frozen=True, repr=False)
class Shown:
    """A prediction with the video that shows the motion. A notebook plays it; `print` gives text.

    Attributes:
        predictions: the best classes, best first.
        overlay: the video, in `overlay.mp4`; None if there is none.
        note: why there is no video; empty if there is one.
    """

    predictions: Predictions
    overlay: Overlay | None
    note: str = ""

    def __repr__(self) -> str:
        motion = self.note if self.overlay is None else f"motion: {self.overlay.motion}"
        return f"{self.predictions}\n  {motion}"

    def _repr_html_(self) -> str:
        """Return a figure of the playing video and the classes with their scores, without any reference to a file."""
        rows = "".join(_row(item.label, item.score) for item in self.predictions)
        caption = html.escape(self.note if self.overlay is None else f"Motion: {self.overlay.motion}.")
        video = "" if self.overlay is None else _video(self.overlay)
        return (
            f'<figure style="margin:0;display:inline-block">{video}'
            f'<table style="margin:.5em 0;border-collapse:collapse">{rows}</table>'
            f"<figcaption>{html.escape(str(self.predictions.path))}. {caption}</figcaption></figure>"
        )


def show(
    recogniser: Recogniser,
    video: VideoSource,
    topk: int = 3,
    *,
    fps: float | None = None,
    start: float | None = None,
    end: float | None = None,
    seconds: float = _SHOWN_SECONDS,
) -> Shown:
    """Predict a video and draw its motion: as the last line of a notebook cell, it plays there.

    >>> emim.show(recogniser, "clip.mp4")  # doctest: +SKIP

    The video holds at most 60 frames of 280 pixels, so that a notebook stays small: usually below 500 KB.

    Args:
        recogniser: the trained network.
        video: path, bytes or frames, with `fps`, `start` and `end`: as for `Recogniser.predict`. An iterator is taken
            to its end, and its frames are kept whole.
        topk: number of classes.
        fps: frames per second of frames in memory.
        start: seconds at which to begin.
        end: seconds before which to end.
        seconds: how much of the video is drawn, from `start`.

    Raises:
        VideoError: the video cannot be read.
        ConfigError: frames without `fps`, or `fps` for a file.
    """
    refuse_fps_of_file(video, fps)
    with open_source(video, fps) as reader:
        predictions = recogniser.predict(reader, topk, start=start, end=end)
        first, stop = reader.frame_range(start, end)
        stop = min(stop, first + max(2, round(seconds * reader.fps)))
        try:
            overlay = overlay_of(
                recogniser.model, recogniser.preprocessing, reader, first, stop, most_frames=_SHOWN_FRAMES
            )
        except UnknownNameError:
            return Shown(predictions, None, "The network has no EMIM block, so there is no motion to draw.")
    return Shown(predictions, overlay)


def _video(overlay: Overlay) -> str:
    source, poster = (base64.b64encode(content).decode("ascii") for content in (overlay.mp4, overlay.poster))
    return (
        f'<video autoplay loop muted playsinline controls width="{overlay.width}" height="{overlay.height}" '
        f'style="display:block;max-width:100%;height:auto" aria-label="{html.escape(overlay.motion)}" '
        f'poster="data:image/jpeg;base64,{poster}" src="data:video/mp4;base64,{source}"></video>'
    )


def _row(label: str, score: float) -> str:
    bar = f'<div style="width:{100 * score:.1f}%;height:.7em;background:#3572b0"></div>'
    return (
        f'<tr><td style="text-align:left;padding-right:1em">{html.escape(label)}</td>'
        f'<td style="text-align:right;padding-right:1em">{score:.1%}</td>'
        f'<td style="width:12em;text-align:left">{bar}</td></tr>'
    )


__getattr__ = renamed(__name__, {"ThinnedVideo": ("SubsampledVideo", SubsampledVideo)})
