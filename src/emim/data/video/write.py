"""Write frames as an mp4 or an animated GIF, one at a time: memory does not grow with the length.

Shape suffixes: H height, W width, C the three colours red, green, blue.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from PIL import Image

from emim.data.video.clip_source import Frames
from emim.errors import ConfigError
from emim.utils import atomic_write

__all__ = ["check_format", "write_video"]

_GIF_FPS = 12.5
"""Most browsers slow down a GIF with a much higher rate, and its size grows with every frame."""


def check_format(path: Path) -> None:
    """Check that `write_video` knows the format of a file name.

    Raises:
        ConfigError: the name ends neither in .mp4 nor in .gif.
    """
    if path.suffix.lower() not in (".mp4", ".gif"):
        raise ConfigError(f"{path}: name the output .mp4 or .gif")


def write_video(path: Path, frames: Iterable[Frames], fps: float, *, crf: int = 23, threads: int = 0) -> int:
    """Write frames one by one into a file that appears whole or not at all.

    Args:
        path: an .mp4 (h264; odd sides lose their last row or column, as the format wants) or a .gif (12.5 frames per
            second at most: the others are left out).
        frames: at least one, frame_HWC in RGB, all of one size.
        fps: frames per second.
        crf: quality of the mp4, 0 (lossless) to 51.
        threads: number of threads of the mp4's encoder; 0 for its own choice.

    Returns:
        Number of frames given.

    Raises:
        ConfigError: unknown format, or the file cannot be written.
    """
    check_format(path)
    counted = _Counted(frames)
    try:
        with atomic_write(path) as temporary:
            if path.suffix.lower() == ".gif":
                _write_gif(temporary, iter(counted), fps)
            else:
                _write_mp4(temporary, iter(counted), fps, crf, threads)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror or error})") from error
    return counted.number


class _Counted:
    """Iterates over frames and counts them."""

    def __init__(self, frames: Iterable[Frames]) -> None:
        self._frames = frames
        self.number = 0

    def __iter__(self) -> Iterator[Frames]:
        for frame_HWC in self._frames:
            self.number += 1
            yield frame_HWC


def _write_mp4(path: Path, frames: Iterator[Frames], fps: float, crf: int, threads: int) -> None:
    first_HWC = next(frames)
    height, width = (side // 2 * 2 for side in first_HWC.shape[:2])
    rate = Fraction(fps).limit_denominator(1001)
    # The index comes first, so that a browser can start to play before it has the whole file.
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf), "preset": "veryfast"})
        stream.thread_count = threads
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame_HWC in chain((first_HWC,), frames):
            even_HWC = np.ascontiguousarray(frame_HWC[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even_HWC, format="rgb24")))
        container.mux(stream.encode())


def _write_gif(path: Path, frames: Iterator[Frames], fps: float) -> None:
    every = max(1, round(fps / _GIF_FPS))
    pictures = (Image.fromarray(frame_HWC) for number, frame_HWC in enumerate(frames) if number % every == 0)
    first = next(pictures)
    first.save(path, format="GIF", save_all=True, append_images=pictures, duration=1000 * every / fps, loop=0)
