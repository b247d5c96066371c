"""Kinetics-400 (600 and 700 have the same files).

As provided: a CSV for each split with the header `label,youtube_id,time_start,time_end,split[,is_cc]`, and videos
`<id>_<start>_<end>.mp4` with times of six digits, in `train/` and `val/`, either directly or in a folder for each
class (in some copies with underscores for spaces). Classes are in the alphabetical order of their names. Videos of
`replacement/replacement_for_corrupted_k400/`, which the host of the copy on Amazon S3 adds for files that are
broken in its archives, come first.

Lists found in the wild: lines `<file> <class index>` or `<file>,<class index>`. Their indices need not be
alphabetical (those of UniFormer's lists are not), so a list is read with a file of class names where one is there,
else the folders of its files name the classes, else the classes are named by their indices.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from emim.data.folder import Split
from emim.datasets.prepare.annotations import bare_name, find_file, not_found, read_class_names, read_lines, read_text
from emim.datasets.prepare.provider import VIDEO_ENDINGS, Annotations, ListedClip, ListedSplit, Provider, Request
from emim.errors import DataError

__all__ = ["KINETICS"]

_SPLITS: tuple[Split, ...] = ("train", "val")
_ANNOTATIONS: dict[Split, tuple[str, ...]] = {"train": ("train",), "val": ("val", "validate", "validation")}
_FOLDERS = ("annotations", ".", "labels", "lists")
_CLASS_FILES = (
    "kinetics_400_categroies.txt",  # so spelt in UniFormer's lists
    "kinetics_400_categories.txt",
    "kinetics_400_labels.csv",
    "label_map_k400.txt",
    "kinetics_classnames.json",
    "category.txt",
    "classes.txt",
)
_REPLACEMENT = "replacement/replacement_for_corrupted_k400"
_HEADER = ("label", "youtube_id", "time_start", "time_end")

_Table = list[dict[str, str]]
_Lines = list[tuple[int, str, int]]


def _read(request: Request) -> Annotations:
    root = request.root
    files: dict[Split, Path] = {}
    for split in _SPLITS:
        names = _file_names(split)
        path = find_file(root, names, _FOLDERS)
        if path is not None:
            files[split] = path
        elif split in request.splits:
            raise not_found(root, f"annotations of the {split} split", names, _FOLDERS)
    provided = {split: path for split, path in files.items() if _is_provided(path)}
    if provided and len(provided) < len(files):
        other = next(path for split, path in files.items() if split not in provided)
        raise DataError(f"{other}: not the provider's CSV, but that of the other split is; use one kind for both")
    return _from_tables(request, files) if provided else _from_lists(request, files)


def _file_names(split: Split) -> tuple[str, ...]:
    prefixes = ("", "kinetics_", "kinetics400_", "kinetics-400_", "k400_")
    names = [f"{prefix}{word}.csv" for prefix in prefixes for word in _ANNOTATIONS[split]]
    return (*names, f"kinetics400_{split}_list_videos.txt", f"{split}.list", f"{split}.txt")


def _is_provided(path: Path) -> bool:
    first = next((line for _, line in read_lines(path)), "")
    columns = {column.strip().lower() for column in first.split(",")}
    if {"path", "label"} <= columns:
        raise DataError(f"{path}: a manifest, not a list of Kinetics; use it as it is, or take it away")
    return "youtube_id" in columns


# --- the provider's CSV ----------------------------------------------------------------------------


def _from_tables(request: Request, files: dict[Split, Path]) -> Annotations:
    tables = {split: _read_table(path) for split, path in files.items()}
    classes = tuple(sorted({row["label"] for rows in tables.values() for row in rows}))
    index_of = {name: index for index, name in enumerate(classes)}
    splits = []
    for split in request.splits:
        folders = {name: _class_folders(request.root, split, name) for name in classes}
        clips = tuple(
            ListedClip(index_of[row["label"]], folders[row["label"]], _video_names(files[split], at, row))
            for at, row in enumerate(tables[split], start=2)
        )
        splits.append(ListedSplit(split, files[split], clips, _where(request.root, split)))
    return Annotations(classes, tuple(splits))


def _read_table(path: Path) -> _Table:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
    missing = [column for column in _HEADER if column not in reader.fieldnames]
    if missing:
        raise DataError(f"{path}: column {missing[0]!r} is missing; expected {','.join(_HEADER)},split")
    try:
        rows = [{column: bare_name(row[column] or "") for column in _HEADER} for row in reader]
    except csv.Error as error:
        raise DataError(f"{path}: not valid CSV ({error})") from error
    for number, row in enumerate(rows, start=2):
        if not row["label"] or not row["youtube_id"]:
            raise DataError(f"{path}, row {number}: empty label or youtube_id")
    return rows


def _video_names(path: Path, number: int, row: dict[str, str]) -> tuple[str, ...]:
    try:
        start, end = (int(float(row[column])) for column in ("time_start", "time_end"))
    except (ValueError, OverflowError):
        raise DataError(
            f"{path}, row {number}: times {row['time_start']!r} and {row['time_end']!r} are not seconds"
        ) from None
    stems = (f"{row['youtube_id']}_{start:06d}_{end:06d}", row["youtube_id"])
    return tuple(f"{stem}{ending}" for stem in stems for ending in VIDEO_ENDINGS)


def _class_folders(root: Path, split: Split, name: str) -> tuple[Path, ...]:
    tops = _split_folders(root, split)
    spellings = dict.fromkeys((name, name.replace(" ", "_")))
    return (root / _REPLACEMENT, *(top / spelling for top in tops for spelling in spellings), *tops)


def _split_folders(root: Path, split: Split) -> tuple[Path, ...]:
    return tuple(
        root / pattern.format(word) for word in _ANNOTATIONS[split] for pattern in ("{}", "videos_{}", "videos/{}")
    )


def _where(root: Path, split: Split) -> str:
    places = [f"{top.relative_to(root)}[/<class>]" for top in _split_folders(root, split)[:3]]
    return f"{', '.join(places)} below {root}"


# --- lists found in the wild -----------------------------------------------------------------------


def _from_lists(request: Request, files: dict[Split, Path]) -> Annotations:
    lists = {split: _read_list(path) for split, path in files.items()}
    class_file = find_file(request.root, _CLASS_FILES, _FOLDERS)
    if class_file is not None:
        classes = read_class_names(class_file)
        note = f"classes and their order are those of {class_file}"
    else:
        classes, note = _classes_without_file([row for rows in lists.values() for row in rows])
    splits = []
    for split in request.splits:
        folders = {name: _class_folders(request.root, split, name) for name in classes}
        bases = (request.root, *_split_folders(request.root, split))
        clips = []
        for number, file, label in lists[split]:
            if label >= len(classes):
                raise DataError(
                    f"{files[split]}, line {number}: class index {label}, but there are {len(classes)} classes"
                )
            parent, _, name = file.rpartition("/")
            own = tuple(base / parent for base in bases) if parent else bases  # an absolute parent replaces the base
            names = tuple(dict.fromkeys((name, *(name.rpartition(".")[0] + ending for ending in VIDEO_ENDINGS))))
            clips.append(ListedClip(label, (*dict.fromkeys(own), *folders[classes[label]]), names))
        splits.append(ListedSplit(split, files[split], tuple(clips), f"., {_where(request.root, split)}"))
    return Annotations(classes, tuple(splits), (note,))


def _read_list(path: Path) -> _Lines:
    rows = []
    for number, line in read_lines(path):
        # Names of files may hold spaces and commas; the index is what follows the last separator.
        at = max(line.rfind(" "), line.rfind(","), line.rfind("\t"))
        file, index = line[:at].strip(), line[at + 1 :]
        if at < 1 or not index.isdigit() or not file:
            raise DataError(f"{path}, line {number}: expected '<file> <class index>', found {line!r}")
        rows.append((number, file.strip('"'), int(index)))
    if not rows:
        raise DataError(f"{path}: the list is empty")
    return rows


def _classes_without_file(rows: _Lines) -> tuple[tuple[str, ...], str]:
    by_index: dict[int, set[str]] = {}
    for _, file, label in rows:
        by_index.setdefault(label, set()).add(file.rpartition("/")[0].rpartition("/")[2])
    count = max(by_index) + 1
    names = [next(iter(by_index.get(index, {""}))) for index in range(count)]
    if all(len(found) == 1 for found in by_index.values()) and all(names) and len(set(names)) == count > 1:
        return tuple(names), "no file of class names; the folders of the listed files name the classes"
    note = f"no file of class names ({', '.join(_CLASS_FILES)}); classes are named by their indices"
    return tuple(str(index) for index in range(count)), note


KINETICS = Provider(
    name="kinetics",
    title="Kinetics-400",
    splits=_SPLITS,
    read=_read,
    num_classes=400,
    counts={1: {"train": 246_535, "val": 19_907}},
    counts_from="the first list of 2017, as mmaction2 counts it; copies in use have 234,619 to 240,436 and 19,761 to "
    "19,796, because videos have gone from YouTube",
)
