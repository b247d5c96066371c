"""Folders of jpg or png frames, read through the same interface as video files.

Frames are ordered by the numbers in their names (`image_2.jpg` before `image_10.jpg`), so that `00001.jpg`,
`img_00001.jpg` and `image_1.jpg` all work. The first file is frame 0 whatever its number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from emim.data.video.clip_source import Frames, VideoReader, check_frame_count
from emim.errors import EmptyVideoError, VideoError

IMAGE_SUFFIXES: frozenset[str] = frozenset({".jpg", ".jpeg", ".png"})
DEFAULT_FPS = 30.0


def _natural_key(path: Path) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which runs of digits compare as numbers; the name itself breaks ties (`1` and `01`)."""
    parts = re.findall(r"[0-9]+|[^0-9]+", path.stem)
    key = tuple((0, int(part), "") if part[0] in "0123456789" else (1, 0, part) for part in parts)
    return (*key, (2, 0, path.name))


def _is_image_name(path: Path) -> bool:
    # Some systems leave hidden companions such as `._00001.jpg`, which hold no image.
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def list_frames(folder: Path) -> list[Path]:
    """Image files directly inside a folder, in presentation order."""
    return sorted((p for p in folder.iterdir() if _is_image_name(p) and p.is_file()), key=_natural_key)


def is_frame_folder(path: Path | str) -> bool:
    """Whether `path` is a folder that holds at least one jpg or png file directly."""
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
        self.rotation = 0
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
        """Nothing stays open between reads."""


def _load(file: Path, folder: Path) -> Frames:
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError as error:
        raise VideoError(folder, f"{file.name} is not an image; export the frames again") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoError(folder, f"{file.name} cannot be read ({error}); export the frames again") from error
