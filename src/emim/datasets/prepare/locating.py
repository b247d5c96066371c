"""Find the clips of annotations on disk.

Every folder is listed once, several at a time, and names are looked up in the listings: on a network file system
that is far faster than checking each of some hundred thousand files.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from emim.data.manifest import ClipEntry
from emim.data.video import VIDEO_SUFFIXES
from emim.datasets.prepare.provider import ListedClip, ListedSplit
from emim.errors import DataError

__all__ = ["FolderListings", "Located", "Progress", "locate"]

Progress = Callable[[int, int], None]

_LISTERS = 8
_STEP = 2000


@dataclass(frozen=True)
class Located:
    """The clips of a split that are on disk.

    Attributes:
        entries: those clips, in the provider's order.
        missing: the files that do not exist, at the first place where they are looked for.
        repeated: clips that were listed before; the first one counts.
    """

    entries: tuple[ClipEntry, ...]
    missing: tuple[str, ...]
    repeated: tuple[str, ...]


class FolderListings:
    """The names in folders: True for a folder, False for a file; a link that leads nowhere is not there.

    A folder that does not exist is empty.
    """

    def __init__(self) -> None:
        self._names: dict[Path, dict[str, bool]] = {}

    def load(self, folders: set[Path]) -> None:
        """List those folders that have not been listed yet, several at a time."""
        new = sorted(folders - self._names.keys())
        with ThreadPoolExecutor(_LISTERS) as pool:
            self._names.update(zip(new, pool.map(_list, new), strict=True))

    def find(self, clip: ListedClip) -> Path | None:
        """Path of the clip's video or folder of frames: the first that exists; None if it is missing."""
        for folder in clip.folders:
            names = self._names[folder]
            for name in clip.names:
                is_folder = names.get(name)
                if is_folder is not None and is_folder != _is_video_name(name):
                    return folder / name
        return None


def locate(listed: ListedSplit, listings: FolderListings, progress: Progress | None = None) -> Located:
    """Find the clips of a split.

    Raises:
        DataError: a folder cannot be listed, or one file is listed with two classes.
    """
    listings.load({folder for clip in listed.clips for folder in clip.folders})
    entries: dict[tuple[Path, tuple[int, int] | None], ClipEntry] = {}
    missing: list[str] = []
    repeated: list[str] = []
    for number, clip in enumerate(listed.clips):
        path = listings.find(clip)
        if path is None:
            missing.append(str(clip.folders[0] / clip.names[0]))
        else:
            first = entries.setdefault((path, clip.frames), _entry(path, clip))
            if first.label != clip.label:
                raise DataError(
                    f"{listed.source}: {path} is listed with class {first.label} and again with class {clip.label}; "
                    "correct the list"
                )
            if len(entries) + len(missing) + len(repeated) <= number:
                repeated.append(str(path))
        if progress is not None and (number % _STEP == 0 or number + 1 == len(listed.clips)):
            progress(number + 1, len(listed.clips))
    return Located(tuple(entries.values()), tuple(missing), tuple(repeated))


def _entry(path: Path, clip: ListedClip) -> ClipEntry:
    if clip.frames is None:
        return ClipEntry(path, clip.label)
    return ClipEntry(path, clip.label, float(clip.frames[0]), float(clip.frames[1]), "frame")


def _is_video_name(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES  # noqa: PTH122 called for every clip


def _list(folder: Path) -> dict[str, bool]:
    try:
        with os.scandir(folder) as items:
            return {item.name: item.is_dir() for item in items if not item.is_symlink() or Path(item.path).exists()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror})") from error
