"""Draw the motion of a whole video on its frames, as an mp4 or a GIF."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from emim.data.preprocessing import Preprocessing
from emim.data.video import VideoReader, open_video
from emim.data.video.write import check_format, write_video
from emim.errors import ConfigError
from emim.motion.drawing import STYLES, Floats, Picture, Style, draw
from emim.motion.video import DEFAULT_OPTIONS, FieldOptions, FrameMotion, sampled_lengths, video_motion, window_of

__all__ = ["Animation", "Look", "animate", "full_colour_length"]

_PROBES = 6
"""Moments of a video at which displacements are sampled before it is drawn."""
_USUAL = 0.99
"""Share of the displacements that are shorter than the length of full colour."""
_LEAST_LENGTH = 0.004
"""Least length of full colour relative to the longest side, so that the noise of a still video stays pale."""


@dataclass(frozen=True)
class Look:
    """Options for drawing the motion of a video.

    Attributes:
        style: see `emim.motion.drawing.Style`.
        longest_side: of the frames drawn, in pixels; smaller frames are not enlarged. "both" draws two side by side.
        largest: length of displacements drawn in full colour, in pixels of the frames drawn; None takes the 99th
            percentile of the video's displacements.
        caption: a line of text at the top.
        seconds: duration drawn, from the start of the video; None for all.
    """

    style: Style = "both"
    longest_side: int = 640
    largest: float | None = None
    caption: str = ""
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise ConfigError(f"style must be one of {', '.join(STYLES)}, got {self.style!r}")
        if self.longest_side < 32:
            raise ConfigError(f"longest_side must be at least 32 pixels, got {self.longest_side}")
        for name in ("largest", "seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be above 0, got {value}")


@dataclass(frozen=True)
class Animation:
    """A video that was written.

    Attributes:
        frames: number of frames.
        fps: frames per second of the video.
        step: frames from a frame to the one that it was compared with.
        largest: length of displacements drawn in full colour, in pixels of the frames drawn.
    """

    frames: int
    fps: float
    step: int
    largest: float


def animate(
    model: nn.Module,
    pre: Preprocessing,
    video: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    look: Look | None = None,
    options: FieldOptions = DEFAULT_OPTIONS,
    progress: Callable[[int, int], None] | None = None,
) -> Animation:
    """Draw the motion of a video, as a network compares it, into an mp4 or a GIF.

    Memory does not grow with the length of the video: frames are read, drawn and written one after the other.

    Args:
        model: a network with EMIM blocks.
        pre: the preprocessing it was trained with.
        video: a video file or folder of frames.
        output: the file to write, .mp4 or .gif; it appears whole or not at all.
        look: how it is drawn.
        options: how fields are computed.
        progress: called with frames done and to do.

    Raises:
        VideoError: the video cannot be read.
        ConfigError: the output cannot be written.
        UnknownNameError: the network has no EMIM block, or none of that name.
    """
    look, output = look or Look(), Path(output)
    check_format(output)
    with open_video(video) as reader:
        total = reader.num_frames
        if look.seconds is not None:
            total = min(total, max(2, round(look.seconds * reader.fps)))
        largest = look.largest or _largest(model, pre, reader, options, look, total)
        motion = video_motion(model, pre, reader, options, longest_side=look.longest_side, stop=total)
        pictures = _drawn(motion, look, largest, total, progress)
        frames = write_video(output, pictures, reader.fps)
        return Animation(frames, reader.fps, window_of(pre, reader, options, total)[1], largest)


def _drawn(
    motion: Iterator[FrameMotion], look: Look, largest: float, total: int, progress: Callable[[int, int], None] | None
) -> Iterator[Picture]:
    for number, item in enumerate(motion, start=1):
        yield draw(
            item.frame_HWC,
            item.displacement_2hw,
            item.confidence_hw,
            largest,
            style=look.style,
            caption=look.caption,
        )
        if progress is not None:
            progress(number, total)


def _largest(
    model: nn.Module, pre: Preprocessing, reader: VideoReader, options: FieldOptions, look: Look, total: int
) -> float:
    """Length of full colour for a video, in pixels of the frames drawn."""
    lengths = sampled_lengths(model, pre, reader, options, total=total, windows=_PROBES)
    longest = max(reader.height, reader.width)
    shown = min(look.longest_side, longest)
    return full_colour_length(lengths * np.float32(shown / longest), shown)


def full_colour_length(lengths: Floats, longest_side: int) -> float:
    """Return the length of full colour: the 99th percentile of `lengths`, in pixels of frames of that longest side."""
    return max(_LEAST_LENGTH * longest_side, float(np.quantile(lengths, _USUAL)))
