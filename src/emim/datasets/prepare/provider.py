"""Data sets as their providers publish them, and the content of their annotations, not yet compared with the disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from emim.data.folder import Split, discover

__all__ = ["FOLDER", "VIDEO_ENDINGS", "Annotations", "ListedClip", "ListedSplit", "Provider", "Request"]

# Videos keep their name when they are re-encoded or repacked, but not always their suffix.
VIDEO_ENDINGS = (".mp4", ".webm", ".avi", ".mkv")


@dataclass(frozen=True)
class ListedClip:
    """One clip of the annotations, and the places where its video may be.

    Attributes:
        label: class index.
        folders: folders that may hold it, best first.
        names: file names it may have, best first. A name without a video's ending is a folder of frames.
        frames: first frame and frame after the last one, where the annotations cut the video further.
    """

    label: int
    folders: tuple[Path, ...]
    names: tuple[str, ...]
    frames: tuple[int, int] | None = None


@dataclass(frozen=True)
class ListedSplit:
    """The clips of one split.

    Attributes:
        split: "train", "val" or "test".
        source: the annotation file or folder it was read from.
        clips: the clips, in the provider's order.
        where: the places searched for videos, in words, for messages.
    """

    split: Split
    source: Path
    clips: tuple[ListedClip, ...]
    where: str


@dataclass(frozen=True)
class Annotations:
    """Content of the annotations of a data set.

    Attributes:
        classes: class names in the provider's order.
        splits: the splits that have labels.
        notes: remarks for the user on how they were read.
    """

    classes: tuple[str, ...]
    splits: tuple[ListedSplit, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """Arguments of a provider's reader.

    Attributes:
        root: the data set's folder.
        splits: the splits wanted; their annotations must be there.
        fold: number of the official split, from 1.
    """

    root: Path
    splits: tuple[Split, ...]
    fold: int = 1


@dataclass(frozen=True)
class Provider:
    """A data set as its provider publishes it.

    Attributes:
        name: the name on the command line.
        title: the name for people.
        splits: the splits with labels.
        read: reads the annotations.
        num_classes: published number of classes; None where any number is right.
        counts: published clips by fold and split; empty where any number is right.
        counts_from: source of the counts.
    """

    name: str
    title: str
    splits: tuple[Split, ...]
    read: Callable[[Request], Annotations]
    num_classes: int | None = None
    counts: dict[int, dict[Split, int]] = field(default_factory=dict)
    counts_from: str = ""

    def published(self, fold: int, split: Split) -> int | None:
        """Published number of clips; None where there is no such figure."""
        return self.counts.get(fold, {}).get(split)


_SPLITS: tuple[Split, ...] = ("train", "val", "test")


def _read(request: Request) -> Annotations:
    root = request.root
    classes: tuple[str, ...] | None = None
    splits = []
    notes = []
    for split in request.splits:
        if split == "test" and not (root / "test").is_dir():
            continue
        clip_list = discover(root, split=split, classes=classes)
        classes = clip_list.classes
        notes.append(clip_list.note)
        clips = tuple(ListedClip(entry.label, (entry.path.parent,), (entry.path.name,)) for entry in clip_list)
        splits.append(ListedSplit(split, root, clips, str(root)))
    return Annotations(classes or (), tuple(splits), tuple(notes))


FOLDER = Provider(name="folder", title="a folder of classes", splits=_SPLITS, read=_read)
