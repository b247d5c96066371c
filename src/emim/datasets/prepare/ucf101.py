"""UCF101.

As provided: `UCF-101/<Class>/v_<Class>_gNN_cNN.avi`, and in `ucfTrainTestlist/` the class list `classInd.txt`
(`1 ApplyEyeMakeup`), `trainlist0N.txt` (`<Class>/<file> <class number>`) and `testlist0N.txt` (`<Class>/<file>`)
for the three official splits.

The class HandstandPushups has files named `v_HandStandPushups_...` in the provider's archive, which some copies
have renamed: both spellings are looked for.
"""

from __future__ import annotations

from pathlib import Path

from emim.data.folder import Split
from emim.datasets.prepare.annotations import class_index, find_file, not_found, read_lines
from emim.datasets.prepare.provider import Annotations, ListedClip, ListedSplit, Provider, Request
from emim.errors import DataError

__all__ = ["UCF101"]

_SPLITS: tuple[Split, ...] = ("train", "test")
_FOLDERS = ("ucfTrainTestlist", ".", "annotations", "labels")
_CLASS_FILE = ("classInd.txt",)
_SPELLINGS = ("HandStandPushups", "HandstandPushups")


def _read(request: Request) -> Annotations:
    root = request.root
    class_file = find_file(root, _CLASS_FILE, _FOLDERS)
    if class_file is None:
        raise not_found(root, "class list", _CLASS_FILE, _FOLDERS)
    index_of = _read_classes(class_file)
    splits = []
    for split in request.splits:
        names = (f"{split}list{request.fold:02d}.txt",)
        path = find_file(root, names, _FOLDERS)
        if path is None:
            raise not_found(root, f"annotations of the {split} split {request.fold}", names, _FOLDERS)
        clips = tuple(_read_list(root, path, index_of, class_file))
        splits.append(ListedSplit(split, path, clips, f"UCF-101/<class>, videos/<class>, <class> below {root}"))
    return Annotations(tuple(index_of), tuple(splits))


def _read_classes(path: Path) -> dict[str, int]:
    index_of: dict[str, int] = {}
    for number, line in read_lines(path):
        fields = line.split(maxsplit=1)
        if len(fields) != 2 or fields[0] != str(len(index_of) + 1) or fields[1] in index_of:
            raise DataError(f"{path}, line {number}: expected '{len(index_of) + 1} <class>', found {line!r}")
        index_of[fields[1]] = len(index_of)
    return index_of


def _read_list(root: Path, path: Path, index_of: dict[str, int], class_file: Path) -> list[ListedClip]:
    folders: dict[str, tuple[Path, ...]] = {}
    clips = []
    for number, line in read_lines(path):
        # A file of the training list is followed by its class number, one of the test list is not.
        place, _, class_number = line.partition(" ")
        name, _, file = place.rpartition("/")
        label = class_index(index_of, name, path, f"line {number}", class_file)
        if class_number.strip() not in ("", str(label + 1)):
            own = f"class {class_number.strip()}, but {class_file.name} has {name} as {label + 1}"
            raise DataError(f"{path}, line {number}: {own}")
        if name not in folders:
            folders[name] = tuple(root / parent / name for parent in ("UCF-101", "videos", "."))
        names = dict.fromkeys([file, *(file.replace(a, b) for a in _SPELLINGS for b in _SPELLINGS)])
        stems = [spelling.removesuffix(".avi") for spelling in names]
        clips.append(ListedClip(label, folders[name], tuple(f"{s}{e}" for s in stems for e in (".avi", ".mp4", ""))))
    return clips


UCF101 = Provider(
    name="ucf101",
    title="UCF101",
    splits=_SPLITS,
    read=_read,
    num_classes=101,
    counts={
        1: {"train": 9_537, "test": 3_783},
        2: {"train": 9_586, "test": 3_734},
        3: {"train": 9_624, "test": 3_696},
    },
    counts_from="the provider's lists; those that UniFormer publishes have as many lines",
)
