"""Diving48 V2.

As provided: clips `rgb/<vid_name>.mp4`; `Diving48_V2_train.json` and `Diving48_V2_test.json`, lists of objects with
`vid_name`, `label`, `start_frame`, `end_frame`; `Diving48_vocab.json`, a list of classes in four parts (take-off,
somersaults, twists, position), whose order is that of the labels.

The files are one dive each, cut by the provider. `start_frame` is 0 and `end_frame` the length in frames in every
entry that the documents of others quote, and programs that list the frames of these clips take `end_frame` for
their number. So the two are read as the frames [start, end) of the clip's own file; an end after its last frame
means its last frame.
"""

from __future__ import annotations

from pathlib import Path

from emim.data.folder import Split
from emim.datasets.prepare.annotations import find_file, not_found, read_json, read_records
from emim.datasets.prepare.provider import Annotations, ListedClip, ListedSplit, Provider, Request
from emim.errors import DataError

__all__ = ["DIVING48", "SEPARATOR"]

SEPARATOR = " / "

_SPLITS: tuple[Split, ...] = ("train", "test")
_VOCABULARY = ("Diving48_vocab.json",)
_NAMES = (".mp4", ".avi", ".webm", ".mkv", "")


def _read(request: Request) -> Annotations:
    root = request.root
    vocabulary = find_file(root, _VOCABULARY)
    if vocabulary is None:
        raise not_found(root, "class names", _VOCABULARY)
    classes = _read_vocabulary(vocabulary)
    folders = tuple(root / name for name in ("rgb", "videos", ".", "Diving48_rgb/rgb"))
    where = f"rgb, videos, ., Diving48_rgb/rgb below {root}"
    splits = []
    for split in request.splits:
        names = (f"Diving48_V2_{split}.json",)
        path = find_file(root, names)
        if path is None:
            raise not_found(root, f"annotations of the {split} split", names)
        splits.append(ListedSplit(split, path, _read_split(path, folders, len(classes)), where))
    return Annotations(classes, tuple(splits))


def _read_vocabulary(path: Path) -> tuple[str, ...]:
    content = read_json(path)
    if not isinstance(content, list) or not content or not all(isinstance(parts, list) for parts in content):
        raise DataError(f"{path}: expected a list of classes, each a list of four words")
    return tuple(SEPARATOR.join(str(part) for part in parts) for parts in content)


def _read_split(path: Path, folders: tuple[Path, ...], num_classes: int) -> tuple[ListedClip, ...]:
    clips = []
    for position, entry in read_records(path, ("vid_name", "label", "start_frame", "end_frame")):
        label, start, end = entry["label"], entry["start_frame"], entry["end_frame"]
        if not all(isinstance(value, int) for value in (label, start, end)):
            raise DataError(f"{path}, entry {position}: label, start_frame and end_frame must be whole numbers")
        if not 0 <= label < num_classes:
            raise DataError(f"{path}, entry {position}: label {label}, but the vocabulary has {num_classes} classes")
        if not 0 <= start < end:
            raise DataError(f"{path}, entry {position}: frames {start} to {end} hold nothing")
        names = tuple(f"{entry['vid_name']}{ending}" for ending in _NAMES)
        clips.append(ListedClip(label, folders, names, (start, end)))
    return tuple(clips)


DIVING48 = Provider(
    name="diving48",
    title="Diving48 V2",
    splits=_SPLITS,
    read=_read,
    num_classes=48,
    counts={1: {"train": 15_027, "test": 1_970}},
    counts_from="the EMIM paper, for the V2 labels",
)
