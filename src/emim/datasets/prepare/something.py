"""Something-Something V1 and V2.

V2 as provided: `<id>.webm` in `20bn-something-something-v2/`; `train.json`, `validation.json`, `test.json` (no
labels, not read) and `labels.json`, or the same with `something-something-v2-` before the name. The class of an
entry is its template without the brackets; `labels.json` gives its index.

V1 as provided: folders `20bn-something-something-v1/<id>/00001.jpg`; `something-something-v1-train.csv` and
`-validation.csv` with lines `id;class`, and `-labels.csv` with one class a line.

Both as lists found in the wild: lines `<folder> <number of frames> <class index>`, such as `train_videofolder.txt`,
with the class names in `category.txt`. The scripts that write such lists for V1 sort the classes first, so their
indices are not those of the provider's `-labels.csv`: a list is read with `category.txt` alone. The number of
frames is not used, because frames may have been extracted anew at another rate. Where both kinds are there, the
provider's files are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from emim.data.folder import Split
from emim.datasets.prepare.annotations import (
    bare_name,
    class_index,
    find_file,
    not_found,
    read_class_names,
    read_lines,
    read_records,
)
from emim.datasets.prepare.provider import VIDEO_ENDINGS, Annotations, ListedClip, ListedSplit, Provider, Request
from emim.errors import DataError

__all__ = ["SSV1", "SSV2"]

_SPLITS: tuple[Split, ...] = ("train", "val")
_FULL_NAME = {"train": "train", "val": "validation"}
_CATEGORY_FILES = ("category.txt", "categories.txt", "classes.txt")
_COUNTS_FROM = "the provider; the lists that UniFormer publishes have as many lines"

# V1 is distributed as folders of frames, V2 as videos; the other form is what people make of them.
_ENDINGS = {1: ("", *VIDEO_ENDINGS), 2: (".webm", ".mp4", ".avi", ".mkv", "")}

_Rows = list[tuple[str, int]]  # name of the video, class index


def _read_v1(request: Request) -> Annotations:
    prefix = "something-something-v1"
    names = {split: (f"{prefix}-{_FULL_NAME[split]}.csv",) for split in _SPLITS}
    return _read(request, _Layout(1, names, (f"{prefix}-labels.csv",), _rows_of_csv))


def _read_v2(request: Request) -> Annotations:
    prefixes = ("", "something-something-v2-")
    names = {split: tuple(f"{prefix}{_FULL_NAME[split]}.json" for prefix in prefixes) for split in _SPLITS}
    return _read(request, _Layout(2, names, tuple(f"{prefix}labels.json" for prefix in prefixes), _rows_of_json))


@dataclass(frozen=True)
class _Layout:
    """The provider's files: names of the splits' annotations, of the class list, and how a split is read."""

    version: int
    names: Mapping[Split, tuple[str, ...]]
    class_files: tuple[str, ...]
    rows: Callable[[Path, dict[str, int], Path], _Rows]


def _read(request: Request, layout: _Layout) -> Annotations:
    lists = {split: _list_names(layout.version, split) for split in _SPLITS}
    provided = _find(request, layout.names)
    in_the_wild = _find(request, lists)
    if len(provided) == len(request.splits):
        class_file = find_file(request.root, layout.class_files)
        if class_file is not None:
            return _annotations(request, layout.version, provided, class_file, layout.rows)
        if len(in_the_wild) < len(request.splits):
            raise not_found(request.root, "class names", layout.class_files)
    if len(in_the_wild) < len(request.splits):
        missing = next(split for split in request.splits if split not in provided)
        raise not_found(request.root, f"annotations of the {missing} split", layout.names[missing] + lists[missing])
    category = find_file(request.root, _CATEGORY_FILES)
    if category is None:
        raise not_found(request.root, "class names for the indices of the lists", _CATEGORY_FILES)
    note = f"read from lists; classes and their order are those of {category.name}, which the lists' indices mean"
    return _annotations(request, layout.version, in_the_wild, category, _rows_of_list, (note,))


def _find(request: Request, names: Mapping[Split, tuple[str, ...]]) -> dict[Split, Path]:
    found = {split: find_file(request.root, names[split]) for split in request.splits}
    return {split: path for split, path in found.items() if path is not None}


def _annotations(
    request: Request,
    version: int,
    files: dict[Split, Path],
    class_file: Path,
    read_rows: Callable[[Path, dict[str, int], Path], _Rows],
    notes: tuple[str, ...] = (),
) -> Annotations:
    classes = read_class_names(class_file)
    index_of = {name: index for index, name in enumerate(classes)}
    folders = _video_folders(request.root, version)
    where = f"{', '.join(str(folder.relative_to(request.root)) for folder in folders)} below {request.root}"
    splits = []
    for split, path in files.items():
        clips = tuple(
            ListedClip(label, folders, tuple(f"{name}{ending}" for ending in _ENDINGS[version]))
            for name, label in read_rows(path, index_of, class_file)
        )
        splits.append(ListedSplit(split, path, clips, where))
    return Annotations(classes, tuple(splits), notes)


def _list_names(version: int, split: Split) -> tuple[str, ...]:
    return (
        f"{split}_videofolder.txt",
        f"somesomev{version}_rgb_{_FULL_NAME[split]}_split.txt",
        f"sthv{version}_{split}_list_rawframes.txt",
        f"sthv{version}_{split}_list_videos.txt",
    )


def _video_folders(root: Path, version: int) -> tuple[Path, ...]:
    own = f"20bn-something-something-v{version}"
    names = (own, f"{own}-frames", "videos", "frames", "rawframes", ".")
    return tuple(root / name for name in names)


def _rows_of_json(path: Path, index_of: dict[str, int], class_file: Path) -> _Rows:
    return [
        (str(entry["id"]), class_index(index_of, bare_name(str(entry["template"])), path, f"entry {at}", class_file))
        for at, entry in read_records(path, ("id", "template"))
    ]


def _rows_of_csv(path: Path, index_of: dict[str, int], class_file: Path) -> _Rows:
    rows = []
    for number, line in read_lines(path):
        name, separator, label = line.partition(";")
        if not separator:
            raise DataError(f"{path}, line {number}: expected 'id;class', found {line!r}")
        rows.append((name.strip(), class_index(index_of, bare_name(label), path, f"line {number}", class_file)))
    return rows


def _rows_of_list(path: Path, index_of: dict[str, int], class_file: Path) -> _Rows:
    rows = []
    for number, line in read_lines(path):
        fields = line.rsplit(maxsplit=2)
        if len(fields) == 3 and fields[1].isdigit() and fields[2].isdigit():
            name, label = fields[0], int(fields[2])
        elif len(fields) == 2 and fields[1].isdigit():  # a list of videos has no number of frames
            name, label = fields[0].rpartition(".")[0] or fields[0], int(fields[1])
        else:
            raise DataError(f"{path}, line {number}: expected '<folder> <frames> <class index>', found {line!r}")
        if label >= len(index_of):
            raise DataError(f"{path}, line {number}: class index {label}, but {class_file} has {len(index_of)} classes")
        rows.append((name, label))
    return rows


SSV1 = Provider(
    name="ssv1",
    title="Something-Something V1",
    splits=_SPLITS,
    read=_read_v1,
    num_classes=174,
    counts={1: {"train": 86_017, "val": 11_522}},
    counts_from=_COUNTS_FROM,
)
SSV2 = Provider(
    name="ssv2",
    title="Something-Something V2",
    splits=_SPLITS,
    read=_read_v2,
    num_classes=174,
    counts={1: {"train": 168_913, "val": 24_777}},
    counts_from=_COUNTS_FROM,
)
