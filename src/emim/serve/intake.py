"""Decode an upload in an isolated process: check its limits, cut its views, write a small working copy.

No other code decodes uploads. The working copy is an mp4 of the first seconds; the server's own process draws the
motion from it.

Shape suffixes: V views, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from emim.data.preprocessing import Preprocessing, raw_test_views, resize, to_tensor
from emim.data.video import VideoReader, open_video
from emim.data.video.write import write_video
from emim.errors import ConfigError, NotAVideoError, VideoError
from emim.serve.settings import Refusal

__all__ = ["MODULES", "Intake", "Upload", "take_in"]

MODULES = (__name__,)
"""Modules that a process which calls `take_in` preloads."""
_READ_AT_ONCE = 8
_COPY_CRF = 16
_COPY_SIDE = 480
_COPY_FPS = 15.0
"""Maximum frame rate: motion is compared over an eighth of a second, and every frame takes time."""
_SLOWEST = 1.0


@dataclass(frozen=True)
class Upload:
    """A request to decode an upload.

    Attributes:
        path: the file.
        name: the sender's name for it.
        preprocessing: how its views are cut.
        max_seconds: maximum duration.
        copy: path of the working copy; None for no copy.
        copy_seconds: duration of the copy.
    """

    path: Path
    name: str
    preprocessing: Preprocessing
    max_seconds: float
    copy: Path | None = None
    copy_seconds: float = 10.0


@dataclass(frozen=True)
class Intake:
    """A decoded upload.

    Attributes:
        views_VCTHW: see `raw_test_views`, uint8.
        frames: number of frames.
        fps: frames per second.
        seconds: duration.
        height: height in pixels.
        width: width in pixels.
        copied: number of frames in the working copy.
    """

    views_VCTHW: npt.NDArray[np.uint8]
    frames: int
    fps: float
    seconds: float
    height: int
    width: int
    copied: int


def take_in(upload: Upload) -> Intake | Refusal:
    """Decode an upload; returns a `Refusal` with the reason if that is impossible."""
    import torch

    torch.set_num_threads(1)
    try:
        with open_video(upload.path, square_pixels=upload.preprocessing.square_pixels) as reader:
            if reader.duration > upload.max_seconds:
                return Refusal(
                    422,
                    f"{upload.name}: it lasts {reader.duration:.1f} seconds, and {upload.max_seconds:g} are allowed; "
                    "cut it.",
                )
            views_VCTHW = raw_test_views(reader, upload.preprocessing).numpy()
            copied = 0 if upload.copy is None else _write_copy(reader, upload, upload.copy)
            return Intake(
                views_VCTHW, reader.num_frames, reader.fps, reader.duration, reader.height, reader.width, copied
            )
    except VideoError as error:
        if isinstance(error.__cause__, MemoryError):  # FFmpeg's own is one
            raise MemoryError from error
        return Refusal(415 if isinstance(error, NotAVideoError) else 422, f"{upload.name}: {error.reason}.")
    except ConfigError as error:
        return Refusal(500, f"{upload.name}: the server cannot write its working copy ({error}).")
    except RuntimeError as error:  # PyTorch has no type for it
        if "allocate memory" in str(error):
            raise MemoryError from error
        raise


def _write_copy(reader: VideoReader, upload: Upload, path: Path) -> int:
    every = max(1, math.ceil(reader.fps / _COPY_FPS - 0.1))  # 15.2 frames per second need not be halved
    every = min(every, max(1, reader.num_frames - 1))  # a motion needs two
    fps = max(reader.fps / every, _SLOWEST)
    wanted = range(0, reader.num_frames, every)[: max(2, round(upload.copy_seconds * fps))]
    return write_video(path, _made_small(reader, wanted), fps, crf=_COPY_CRF, threads=1)


def _made_small(reader: VideoReader, wanted: range) -> Iterator[npt.NDArray[np.uint8]]:
    factor = min(1.0, _COPY_SIDE / max(reader.height, reader.width))
    height, width = (max(2, round(length * factor)) for length in (reader.height, reader.width))
    for start in range(0, len(wanted), _READ_AT_ONCE):
        frames_TCHW = to_tensor(reader.read(wanted[start : start + _READ_AT_ONCE]))
        yield from resize(frames_TCHW, height, width).permute(0, 2, 3, 1).contiguous().numpy()
