"""HMDB51.

As provided: `<class>/<name>.avi`, and `testTrainMulti_7030_splits/<class>_test_split<N>.txt` for the three official
splits, with lines `<name>.avi <number>`: 1 is training, 2 is test, 0 is not used. There is no class list; classes
are in the order of their names.
"""

from __future__ import annotations

from pathlib import Path

from emim.data.folder import Split
from emim.datasets.prepare.annotations import not_found, read_lines
from emim.datasets.prepare.provider import Annotations, ListedClip, ListedSplit, Provider, Request
from emim.errors import DataError

__all__ = ["HMDB51"]

_SPLITS: tuple[Split, ...] = ("train", "test")
_FOLDERS = ("testTrainMulti_7030_splits", "test_train_splits/testTrainMulti_7030_splits", "annotations", "splits", ".")
_PARTS: dict[str, Split | None] = {"0": None, "1": "train", "2": "test"}


def _read(request: Request) -> Annotations:
    root = request.root
    ending = f"_test_split{request.fold}.txt"
    # Some systems leave hidden companions such as `._wave_test_split1.txt`.
    pattern = f"[!.]*{ending}"
    files = next((files for name in _FOLDERS if (files := sorted((root / name).glob(pattern)))), None)
    if files is None:
        raise not_found(root, f"lists of split {request.fold}", (f"<class>{ending}",), _FOLDERS)
    classes = tuple(sorted(file.name.removesuffix(ending) for file in files))
    clips: dict[Split, list[ListedClip]] = {split: [] for split in _SPLITS}
    for label, name in enumerate(classes):
        path = files[0].with_name(f"{name}{ending}")
        folders = tuple(root / parent / name for parent in (".", "hmdb51_org", "videos"))
        for split, clip in _read_class(path, label, folders):
            clips[split].append(clip)
    where = f"<class>, hmdb51_org/<class>, videos/<class> below {root}"
    splits = (ListedSplit(split, files[0].parent, tuple(clips[split]), where) for split in request.splits)
    return Annotations(classes, tuple(splits))


def _read_class(path: Path, label: int, folders: tuple[Path, ...]) -> list[tuple[Split, ListedClip]]:
    rows: list[tuple[Split, ListedClip]] = []
    for number, line in read_lines(path):
        file, _, part = line.rpartition(" ")
        if part not in _PARTS or not file.strip():
            raise DataError(f"{path}, line {number}: expected '<file>.avi 0', 1 or 2, found {line!r}")
        split = _PARTS[part]
        if split is not None:
            stem = file.strip().removesuffix(".avi")
            rows.append((split, ListedClip(label, folders, (f"{stem}.avi", f"{stem}.mp4", stem))))
    return rows


HMDB51 = Provider(
    name="hmdb51",
    title="HMDB51",
    splits=_SPLITS,
    read=_read,
    num_classes=51,
    counts={fold: {"train": 3_570, "test": 1_530} for fold in (1, 2, 3)},
    counts_from="the provider's splits, 70 and 30 clips of each class",
)
