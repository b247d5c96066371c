"""Folders of jpg or png frames, and animated WebP, read with Pillow through the same interface as video files.

Frames of a folder are ordered by the numbers in their names (`image_2.jpg` before `image_10.jpg`), so that
`00001.jpg`, `img_00001.jpg` and `image_1.jpg` all work. The first file is frame 0 whatever its number.
"""

from __future__ import annotations

import bisect
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from emim.data.video.clip_source import Frames, VideoReader, check_frame_count
from emim.data.video.container import MediaFile, bytes_missing, is_lfs_pointer, webp_durations
from emim.errors import EmptyVideoError, TruncatedVideoError, VideoError

__all__ = [
    "DEFAULT_FPS",
    "IMAGE_SUFFIXES",
    "AnimatedWebPReader",
    "FrameFolderReader",
    "is_frame_folder",
    "list_frames",
]

IMAGE_SUFFIXES: frozenset[str] = frozenset({".jpg", ".jpeg", ".png"})
DEFAULT_FPS = 30.0
"""Frame rate of frames that come without one."""


def _natural_key(path: Path) -> tuple[tuple[int, int, str], ...]:
    """Sort key by which runs of digits compare as numbers; the name itself breaks ties (`1` and `01`)."""
    parts = re.findall(r"[0-9]+|[^0-9]+", path.stem)
    key = tuple((0, int(part), "") if part[0] in "0123456789" else (1, 0, part) for part in parts)
    return (*key, (2, 0, path.name))


def _is_image_name(path: Path) -> bool:
    # Some systems leave hidden companions such as `._00001.jpg`, which hold no image.
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def list_frames(folder: Path) -> list[Path]:
    """List the image files directly inside a folder, in presentation order."""
    return sorted((p for p in folder.iterdir() if _is_image_name(p) and p.is_file()), key=_natural_key)


def is_frame_folder(path: Path | str) -> bool:
    """True if `path` is a folder that holds at least one jpg or png file directly."""
    folder = Path(path)
    return folder.is_dir() and any(_is_image_name(p) and p.is_file() for p in folder.iterdir())


class FrameFolderReader(VideoReader):
    """Reads a folder of equally sized frames.

    The frame rate is not stored in such a folder: it is `fps`, 30 unless given. `rotation` is always 0
    (orientation tags of single images are not applied).

    Args:
        folder: folder that holds the images directly.
        min_frames: fewest images that are accepted.
        fps: frames per second that the images were taken at.

    Raises:
        EmptyVideoError: no jpg or png in the folder.
        SingleFrameError: one image only, and `min_frames` is above 1.
        VideoError: the first image cannot be read, or `fps` is not above 0. An unreadable or differently
            sized later image raises from `read`, which names that file.
    """

    def __init__(self, folder: Path | str, *, min_frames: int = 2, fps: float = DEFAULT_FPS) -> None:
        self.path = Path(folder)
        if not fps > 0:
            raise VideoError(self.path, f"fps must be above 0, got {fps}")
        self._files = list_frames(self.path)
        if not self._files:
            raise EmptyVideoError(
                self.path, f"no frame in this folder; expected {', '.join(sorted(IMAGE_SUFFIXES))} files"
            )
        self.num_frames = len(self._files)
        check_frame_count(self.path, self.num_frames, min_frames)
        self.fps = float(fps)
        self.duration = self.num_frames / self.fps
        self.rotation, self.mirrored = 0, False
        self.height, self.width = _load(self._files[0], self.path).shape[:2]

    def _read_ascending(self, indices: Sequence[int]) -> Iterator[tuple[int, Frames]]:
        for index in indices:
            frame_HWC = _load(self._files[index], self.path)
            height, width = frame_HWC.shape[:2]
            if (height, width) != (self.height, self.width):
                raise VideoError(
                    self.path,
                    f"{self._files[index].name} is {width}x{height}, but {self._files[0].name} is "
                    f"{self.width}x{self.height}; all frames of a clip need one size",
                )
            yield index, frame_HWC

    def close(self) -> None:
        """Do nothing: no file stays open between reads."""


class AnimatedWebPReader(VideoReader):
    """Reads an animated WebP image, which FFmpeg does not. Transparency is dropped, as with GIF.

    Args:
        media: the file.
        min_frames: fewest frames accepted.

    Raises:
        TruncatedVideoError: the file is shorter than it announces.
        SingleFrameError: one frame only, and `min_frames` is above 1.
        VideoError: the file cannot be decoded; a damaged frame raises from `read`.
    """

    def __init__(self, media: MediaFile, *, min_frames: int = 2) -> None:
        self.path = media.path
        if missing := bytes_missing(media):
            raise TruncatedVideoError(self.path, f"{missing} bytes are missing; copy or download the file again")
        durations = webp_durations(media)
        self.num_frames = len(durations)
        check_frame_count(self.path, self.num_frames, min_frames)
        self._starts = [0, *itertools.accumulate(durations)]  # in milliseconds
        self.duration = self._starts[-1] / 1000 or self.num_frames / DEFAULT_FPS
        self.fps = self.num_frames / self.duration
        self.rotation, self.mirrored = 0, False
        self._file = media.open()
        try:
            self._image = Image.open(self._file, formats=["WEBP"])
            if getattr(self._image, "n_frames", 1) != self.num_frames:
                raise VideoError(
                    self.path, f"announces {self.num_frames} frames, but others are found; export it again"
                )
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            self._file.close()
            raise VideoError(self.path, f"cannot be read ({error}); export it again") from error
        except BaseException:
            self._file.close()
            raise
        self.width, self.height = self._image.size

    def time_of(self, index: int) -> float:
        """Return the seconds from the start of the animation to that of frame `index`."""
        self._check_index(index)
        return self._starts[index] / 1000 if self._starts[-1] else index / self.fps

    def _frame_from(self, moment: float) -> int:
        if not self._starts[-1]:
            return super()._frame_from(moment)
        return bisect.bisect_left(self._starts, math.ceil(moment * 1000 - 1e-6), hi=self.num_frames)

    def _read_ascending(self, indices: Sequence[int]) -> Iterator[tuple[int, Frames]]:
        for index in indices:
            try:
                self._image.seek(index)
                frame_HWC = np.asarray(self._image.convert("RGB"))
            except (OSError, SyntaxError, EOFError, ValueError) as error:
                raise VideoError(
                    self.path, f"frame {index} does not decode ({error}); copy the file again or export it again"
                ) from error
            yield index, frame_HWC

    def close(self) -> None:
        """Release the file; closing twice is harmless."""
        self._image.close()
        self._file.close()


def _load(file: Path, folder: Path) -> Frames:
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError as error:
        if is_lfs_pointer(MediaFile(file).head()):
            reason = f"{file.name} is a Git LFS pointer, not the image itself; run `git lfs pull` in its repository"
            raise VideoError(folder, reason) from error
        raise VideoError(folder, f"{file.name} is not an image; export the frames again") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoError(folder, f"{file.name} cannot be read ({error}); export the frames again") from error
