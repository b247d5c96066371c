"""Labelled clips from a folder of classes or a manifest, and their division into training, validation and test.

Layouts of a folder, where a clip is a video file or a folder of .jpg or .png frames:

    root/train/<class>/<clip>    with, optionally, root/val (or root/validation) and root/test
    root/<class>/<clip>          flat

A manifest (`emim.data.manifest`) may have a column `split`, whose values stand for these folders. Where the wanted
split is not there:

- val: a seeded share of the training clips (or of all), taken class by class.
- test: the val split; without one, the same share as val. Model selection has then seen the test clips,
  and the note of the list says so.
- train: all training clips when there is a val split, else the clips that val does not hold.

The share depends on the seed and the clips' relative paths alone, not on the order that the file system
lists them in. It goes clip by clip, or by groups of clips (`emim.data.splitting`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from emim.data.class_list import PATH_LIMIT, clipped, composed, same_but_for_case
from emim.data.clip_list import ClipEntry, ClipList, Split, fingerprint, is_manifest
from emim.data.manifest import check_files_exist, parse_columns, read_manifest
from emim.data.splitting import (
    check_apart,
    check_split_options,
    group_column,
    has_splits,
    join_notes,
    list_size,
    split_clips,
)
from emim.data.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES, is_frame_folder
from emim.errors import ConfigError, DataError
from emim.utils import nearest

__all__ = [
    "Split",
    "discover",
    "fingerprint",
    "has_splits",
    "load_clips",
    "split_clips",
    "training_and_validation_clips",
    "validation_clips",
]

_log = logging.getLogger(__name__)

_SPLIT_FOLDERS: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("val", "validation"),
    "test": ("test",),
}
_LAYOUT = "expected <root>/<class>/<clip> or <root>/train/<class>/<clip>, clips being videos or frame folders"

_Columns = str | Mapping[str, str] | None


def load_clips(
    path: Path | str,
    *,
    split: Split | None,
    classes: Sequence[str] | None = None,
    val_share: float = 0.2,
    seed: int = 0,
    max_missing: float = 0.0,
    columns: _Columns = None,
    group_by: str | None = None,
) -> ClipList:
    """The clips of one split of a folder of classes or a manifest (rules: see the module's docstring).

    Args:
        path: folder, or manifest (a name ending in .csv, .tsv, .tab, .txt or .list).
        split: "train", "val" or "test"; None for every clip.
        classes: class names in index order, for example from a checkpoint; see `discover` and `read_manifest`.
        val_share: share that is held out where there is no val split, in [0, 1).
        seed: seed of the held-out share.
        max_missing: share of a manifest's clips that may name files that do not exist. Without a column `split`,
            all its clips are meant.
        columns: which column of a manifest holds what (`emim.data.manifest.parse_columns`).
        group_by: rule by which clips are kept together in the held-out share.

    Raises:
        DataError: the path does not exist or is neither a folder nor a manifest, or see `discover`.
        ManifestError: see `read_manifest`.
        ConfigError: `val_share` is not in [0, 1), or `split` is unknown, or `columns` or `group_by` is malformed.
    """
    source = Path(path)
    check_split_options(split, val_share)
    if not is_manifest(source):
        return discover(source, split=split, classes=classes, val_share=val_share, seed=seed, group_by=group_by)
    clip_list = _read(source, classes, columns, group_by)
    if not has_splits(clip_list):
        check_files_exist(clip_list, max_missing)
    part = split_clips(clip_list, split, val_share=val_share, seed=seed, group_by=group_by)
    if has_splits(clip_list):
        check_files_exist(part, max_missing)
    return part


def training_and_validation_clips(
    path: Path | str,
    *,
    val: Path | str | None = None,
    val_share: float = 0.2,
    seed: int = 0,
    max_missing: float = 0.0,
    columns: _Columns = None,
    group_by: str | None = None,
) -> tuple[ClipList, ClipList | None]:
    """The clips that a run trains on, and those that it is validated on; None where nothing is held out.

    Args:
        path: folder of classes or manifest.
        val: folder or manifest of validation clips; None takes the val split of `path`.
        val_share: see `load_clips`; with `val`, nothing of `path` is held out.
        seed: seed of the held-out share.
        max_missing: share of the training clips that may name files that do not exist. Those of `val` are read
            where they are, and reported where they are not.
        columns: see `load_clips`.
        group_by: see `load_clips`. Clips of one group on both sides are an error.

    Raises:
        DataError: see `load_clips`; or a group is on both sides.
        ManifestError: see `read_manifest`.
        ConfigError: see `load_clips`.
    """
    source = Path(path)
    check_split_options(None, val_share)
    if val is not None:
        training = _own_clips(source, "train", None, 0.0, seed, max_missing, columns, group_by)
    elif is_manifest(source):
        whole = _read(source, None, columns, group_by)
        rules: dict[str, Any] = {"val_share": val_share, "seed": seed, "group_by": group_by}
        training, validation = (split_clips(whole, side, **rules) for side in ("train", "val"))
        if has_splits(whole):
            check_files_exist(training, max_missing)
        else:
            check_files_exist(whole, max_missing)
    else:
        training = discover(source, split="train", val_share=val_share, seed=seed, group_by=group_by)
    if val is not None or not is_manifest(source):
        validation = validation_clips(
            path, val=val, classes=training.classes, val_share=val_share, seed=seed, columns=columns, group_by=group_by
        )
    check_apart(training, validation, group_by)
    return training, validation if len(validation) else None


def validation_clips(
    path: Path | str,
    *,
    val: Path | str | None = None,
    classes: Sequence[str] | None = None,
    val_share: float = 0.2,
    seed: int = 0,
    columns: _Columns = None,
    group_by: str | None = None,
) -> ClipList:
    """The clips that a run of these settings is validated on; empty where nothing is held out.

    Files need not exist: those that do not are reported with the clips that cannot be read. Arguments and errors are
    those of `training_and_validation_clips`; `classes` are the names in index order.
    """
    if val is not None:
        return _own_clips(Path(val), "val", classes, val_share, seed, 1.0, columns, group_by)
    return load_clips(
        path, split="val", classes=classes, val_share=val_share, seed=seed, max_missing=1.0, columns=columns,
        group_by=group_by,
    )  # fmt: skip


def _own_clips(
    source: Path, split: Split, classes: Sequence[str] | None, val_share: float, seed: int, max_missing: float,
    columns: _Columns, group_by: str | None,
) -> ClipList:  # fmt: skip
    """The clips of a folder or manifest that is given for one split: all of them where it is not divided."""
    whole: Split | None = split
    if is_manifest(source):
        clip_list = _read(source, classes, columns, group_by)
        whole = split if has_splits(clip_list) else None
        if whole is not None and not any(entry.split == split for entry in clip_list):
            raise DataError(f"{source}: no row is of split {split!r}")
        part = split_clips(clip_list, whole, val_share=val_share, seed=seed)
        check_files_exist(part, max_missing)
        return part
    if group_column(group_by) is not None:
        group_by = None  # a column of the other part, which is a manifest
    if split == "val" and os.path.isdir(source) and not _split_folders(source):  # noqa: PTH112
        whole = None
    return discover(source, split=whole, classes=classes, val_share=val_share, seed=seed, group_by=group_by)


def _read(source: Path, classes: Sequence[str] | None, columns: _Columns, group_by: str | None) -> ClipList:
    """All rows of a manifest, whose files need not exist, with the groups of a rule `column:NAME`."""
    chosen = dict(parse_columns(columns) if isinstance(columns, str) else columns or {})
    column = group_column(group_by)
    if column is not None and chosen.setdefault("group", column) != column:
        raise ConfigError(f"group_by {group_by!r}, but columns has group={chosen['group']}; give one of them")
    return read_manifest(source, classes, columns=chosen, check_files=False)


def discover(
    root: Path | str,
    *,
    split: Split | None,
    classes: Sequence[str] | None = None,
    val_share: float = 0.2,
    seed: int = 0,
    group_by: str | None = None,
) -> ClipList:
    """The clips of one split of a folder of classes (layouts and rules: see the module's docstring).

    Args:
        root: the folder.
        split: "train", "val" or "test"; None for every clip of every split.
        classes: class names in index order, for example from a checkpoint. Default: the sorted names of the
            class folders that hold a training clip.
        val_share: share of each class that is held out where there is no val folder, in [0, 1). 0 gives
            an empty val list. A class of two clips or more has at least one on either side.
        seed: seed of the held-out share.
        group_by: regular expression by which clips are kept together in the held-out share.

    Raises:
        DataError: no such folder, no class folders, no clips, fewer than two classes, or a class that
            `classes` or the train folder lacks; or groups that leave nothing to hold out.
        ConfigError: `val_share` is not in [0, 1), `split` is unknown, or `group_by` is malformed.
    """
    root = Path(root)
    check_split_options(split, val_share)
    if group_column(group_by) is not None:
        raise ConfigError(f"group_by {group_by!r}: a folder has no columns; give a regular expression such as s(\\d+)_")
    if not os.path.exists(root):  # noqa: PTH110 which takes names that are too long
        raise DataError(f"{clipped(str(root), PATH_LIMIT)}: no such folder; {_LAYOUT}")
    if not root.is_dir():
        raise DataError(f"{root}: not a folder; give a folder of classes or a manifest (.csv, .tsv, .txt)")

    folders = _split_folders(root)
    if not folders:
        everything = _scan(root)
        names = _class_names(everything, classes)
        clip_list = _to_list(root, [everything], names)
        if split is None:
            return _all_of(clip_list, "the flat folder")
        return split_clips(clip_list, split, val_share=val_share, seed=seed, group_by=group_by)

    extra = len(_visible(root)) - len(folders)
    beside = f"{extra} other files or folders in {root.name} ignored" if extra else ""
    names = tuple(classes) if classes is not None else _train_classes(folders)
    if split is None:
        scans = [_scan(folder) for folder in folders.values()]
        parts = "+".join(folder.name for folder in folders.values())
        return _all_of(_to_list(root, scans, names, beside), parts)
    own = folders.get(split) or (folders.get("val") if split == "test" else None)
    if own is None and "train" not in folders:
        present = ", ".join(folder.name for folder in folders.values())
        raise DataError(f"{root}: no folder for split {split!r} (found {present}); {_LAYOUT}")
    scan = _scan(own or folders["train"])
    clip_list = _to_list(root, [scan], names, beside)
    if own is None or (split == "train" and "val" not in folders):
        return split_clips(clip_list, split, val_share=val_share, seed=seed, group_by=group_by)
    stand_in = " (no test folder; model selection has seen these clips)" if own.name != "test" else ""
    note = f"{split}: {list_size(clip_list)} from folder {own.name}{stand_in if split == 'test' else ''}"
    return replace(clip_list, note=join_notes(note, clip_list.note))


@dataclass(frozen=True)
class _Scan:
    """Clips by class in one folder of classes, and what was passed over."""

    folder: Path
    clips: dict[str, list[Path]]
    empty: list[str]
    others: int


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda p: p.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}") from error


def _is_clip(path: Path) -> bool:
    if path.is_dir():
        return is_frame_folder(path)
    return path.suffix.lower() in VIDEO_SUFFIXES


def _split_folders(root: Path) -> dict[Split, Path]:
    """The split folders below `root`; empty when `root` is a flat folder of classes."""
    subfolders = {path.name: path for path in _visible(root) if path.is_dir()}
    found: dict[Split, Path] = {}
    for split, names in _SPLIT_FOLDERS.items():
        present = [subfolders[name] for name in names if name in subfolders]
        if len(present) > 1:
            raise DataError(f"{root}: has both {present[0].name} and {present[1].name}; keep one of them")
        if present:
            found[split] = present[0]
    # "train" is also a vehicle: beside other folders, one that holds clips directly is a class.
    others = len(subfolders) - len(found)
    if others and ("train" not in found or any(_is_clip(path) for path in _visible(found["train"]))):
        return {}
    return found


def _scan(folder: Path) -> _Scan:
    children = _visible(folder)
    class_folders = [path for path in children if path.is_dir()]
    others = len(children) - len(class_folders)
    if not class_folders:
        direct = sum(_is_clip(path) for path in children)
        held = f"it holds {direct} videos directly" if direct else "it holds no folder"
        raise DataError(f"{folder}: no class folders ({held}); {_LAYOUT}")
    clips: dict[str, list[Path]] = {}
    empty: list[str] = []
    for class_folder in class_folders:
        members = _visible(class_folder)
        found = [path for path in members if _is_clip(path)]
        others += len(members) - len(found)
        if found:
            clips.setdefault(composed(class_folder.name), []).extend(found)
        else:
            empty.append(class_folder.name)
    if not clips:
        images = any(path.suffix.lower() in IMAGE_SUFFIXES for path in _visible(class_folders[0]))
        hint = f"; images of one clip belong in a folder of their own, {class_folders[0]}/<clip>/" if images else ""
        raise DataError(f"{folder}: no clips in {len(class_folders)} class folders{hint}; {_LAYOUT}")
    pair = same_but_for_case(clips)
    if pair is not None:
        _log.warning("%s: class folders %r and %r differ in upper and lower case or spaces alone", folder, *pair)
    return _Scan(folder, clips, empty, others)


def _class_names(scan: _Scan, classes: Sequence[str] | None) -> tuple[str, ...]:
    if classes is not None:
        return tuple(classes)
    if len(scan.clips) < 2:
        raise DataError(
            f"{scan.folder}: only one class with clips, {next(iter(scan.clips))!r}; "
            f"training needs at least two; {_LAYOUT}"
        )
    return tuple(sorted(scan.clips))


def _train_classes(folders: dict[Split, Path]) -> tuple[str, ...]:
    # Without a train folder (a test set on its own), the first folder there is defines the classes.
    return _class_names(_scan(folders.get("train") or next(iter(folders.values()))), None)


def _to_list(root: Path, scans: list[_Scan], names: tuple[str, ...], note: str = "") -> ClipList:
    index_of = {composed(name): index for index, name in enumerate(names)}
    entries: list[ClipEntry] = []
    notes: list[str] = [note]
    for scan in scans:
        for name, paths in scan.clips.items():
            if name not in index_of:
                hint = nearest(name, names, cutoff=0.0)
                raise DataError(
                    f"{scan.folder / name}: class {name!r} is not one of the {len(names)} training classes; "
                    f"{hint} Rename the folder or take it away"
                )
            entries += [ClipEntry(path, index_of[name]) for path in paths]
        if scan.empty:
            notes.append(f"left out in {scan.folder.name}: class folders without clips: {', '.join(scan.empty)}")
        if scan.others:
            notes.append(f"{scan.others} other files or folders in {scan.folder.name} ignored")
    return ClipList(tuple(entries), names, root, join_notes(*notes))


def _all_of(clip_list: ClipList, parts: str) -> ClipList:
    return replace(clip_list, note=join_notes(f"all: {list_size(clip_list)} from {parts}", clip_list.note))
