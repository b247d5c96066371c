"""From stored to displayed frames: display matrix and pixel aspect.

A file may say that its frames have to be turned or mirrored (the display matrix, which phones and front cameras
write) and that its pixels are not square (the sample aspect ratio). Frames are returned as a player shows them.

Shapes: H height, W width, C the three colours red, green, blue.
"""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
from av.video.frame import VideoFrame

from emim.data.video.clip_source import Frames

if TYPE_CHECKING:
    from av.sidedata.sidedata import SideData
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream

__all__ = ["Orientation", "as_array", "display_size", "orientation_of", "pixel_aspect", "scaled", "to_display"]

# Scaling to even sides leaves pixels a little off square; scaling them again would only blur.
_NEARLY_SQUARE = 0.03
# The widest pixels in use are 32:11; a larger ratio is a mistake, and would make a small file take much memory.
_LARGEST_ASPECT = 10


class Orientation(NamedTuple):
    """One of the eight ways in which a stored frame may lie.

    Attributes:
        transposed: rows become columns; applied first.
        flip_x: columns are reversed.
        flip_y: rows are reversed.
    """

    transposed: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @property
    def rotation(self) -> int:
        """Degrees clockwise (0, 90, 180 or 270) by which stored frames are turned, before any mirroring."""
        return (270 if self.flip_y else 90) if self.transposed else (180 if self.flip_y else 0)

    @property
    def mirrored(self) -> bool:
        """True if frames are mirrored left to right after being turned."""
        return self.flip_x != (self.transposed != self.flip_y)

    def apply(self, frame_HWC: Frames) -> Frames:
        """Return a view of a stored frame that stands upright."""
        if self.transposed:
            frame_HWC = frame_HWC.swapaxes(0, 1)
        return frame_HWC[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


def orientation_of(frame: VideoFrame) -> Orientation | None:
    """Read the display matrix that FFmpeg attaches to a decoded frame, from the container or the bitstream.

    A stored pixel (x, y) is shown at (a x + c y, b x + d y), where the matrix begins a, b, u, c, d. Angles between
    the multiples of 90 degrees become the nearest of these.

    Returns:
        The orientation; None for a frame without a matrix. In a bitstream (an SEI message of H.264) a matrix holds
        for the frames that follow as well, to which FFmpeg does not attach it.
    """
    data = cast("SideData | None", frame.side_data.get("DISPLAYMATRIX"))
    if data is None:
        return None
    a, b, _, c, d = struct.unpack_from("=5i", bytes(data))
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, a < 0, d < 0)
    return Orientation(True, c < 0, b < 0)


def pixel_aspect(stream: VideoStream) -> Fraction:
    """Width of a stored pixel over its height; 1 where it is unknown, absurd, or nearly 1."""
    aspect = stream.sample_aspect_ratio
    if not aspect or not 1 / _LARGEST_ASPECT <= aspect <= _LARGEST_ASPECT or abs(aspect - 1) <= _NEARLY_SQUARE:
        return Fraction(1)
    return aspect


def display_size(height: int, width: int, aspect: Fraction) -> tuple[int, int]:
    """Height and width at which a stored frame, not yet turned, has square pixels.

    One side grows, none shrinks, so that no pixel is lost.
    """
    return (height, round(width * aspect)) if aspect >= 1 else (round(height / aspect), width)


def to_display(frame: VideoFrame, orientation: Orientation, aspect: Fraction, reformatter: VideoReformatter) -> Frames:
    """Convert a decoded frame to RGB with square pixels (bicubic, where they are not), and turn it upright.

    Args:
        frame: as FFmpeg gives it.
        orientation: how it lies.
        aspect: of its pixels; see `pixel_aspect`.
        reformatter: reused from frame to frame, which is faster.
    """
    # Converted first, because FFmpeg would scale the fields of an interlaced frame one by one.
    frame_HWC = as_array(reformatter.reformat(frame, format="rgb24", threads=1))
    if aspect != 1:
        height, width = display_size(frame.height, frame.width, aspect)
        frame_HWC = scaled(frame_HWC, height, width)
    return orientation.apply(frame_HWC)


def scaled(frame_HWC: Frames, height: int, width: int) -> Frames:
    """Resize an RGB frame with FFmpeg's bicubic filter; a frame that has this size is returned as it is."""
    if frame_HWC.shape[:2] == (height, width):
        return frame_HWC
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
    return as_array(frame.reformat(width, height, "rgb24", interpolation="BICUBIC", threads=1))


def as_array(frame: VideoFrame) -> Frames:
    """Pixels of a frame of format rgb24."""
    return frame.to_ndarray().astype(np.uint8, copy=False)
