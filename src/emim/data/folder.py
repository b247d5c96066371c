"""Labelled clips from a folder of classes, and the split of a list into training and held-out clips.

Layouts, where a clip is a video file or a folder of .jpg or .png frames:

    root/train/<class>/<clip>    with, optionally, root/val (or root/validation) and root/test
    root/<class>/<clip>          flat

Where the wanted split has no folder of its own:

- val: a seeded share of the training clips (or of the flat folder), taken class by class.
- test: the val folder; without one, the same share as val. Model selection has then seen the test clips,
  and the note of the list says so.
- train: all of the train folder when there is a val folder, else the clips that val does not hold.

The share depends on the seed and the clips' relative paths alone, not on the order that the file system
lists them in. It goes clip by clip: it cannot know which clips show the same person or scene.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from emim.data.manifest import (
    ClipEntry,
    ClipList,
    format_moment,
    read_manifest,
    relative_path,
)
from emim.data.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES, is_frame_folder
from emim.errors import ConfigError, DataError
from emim.utils import nearest

Split = Literal["train", "val", "test"]

_SPLIT_FOLDERS: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("val", "validation"),
    "test": ("test",),
}
_LAYOUT = "expected <root>/<class>/<clip> or <root>/train/<class>/<clip>, clips being videos or frame folders"


def load_clips(
    path: Path | str,
    *,
    split: Split | None,
    classes: Sequence[str] | None = None,
    val_share: float = 0.2,
    seed: int = 0,
    max_missing: float = 0.0,
) -> ClipList:
    """The clips of one split of a folder of classes (see `discover`) or of a `.csv` manifest.

    The class list of a manifest is `classes.txt` beside it where there is one (see `read_manifest`).

    A manifest has no split folders: "train" and "val" are the two sides of the seeded split, "test" is the
    same as "val", and None is every row (what a manifest made for validation or testing alone needs). A share
    `max_missing` of its rows may name files that are not there: whoever reads them says so then.

    Raises:
        DataError: the path does not exist or is neither a folder nor a manifest, or see `discover`.
        ManifestError: see `read_manifest`.
        ConfigError: `val_share` is not in [0, 1), or `split` is unknown.
    """
    source = Path(path)
    if source.suffix.lower() != ".csv" or source.is_dir():
        return discover(source, split=split, classes=classes, val_share=val_share, seed=seed)
    _check_options(split, val_share)
    clip_list = read_manifest(source, classes, max_missing=max_missing)
    if split is None:
        return clip_list
    return _seeded_side(clip_list, split, val_share, seed)


def discover(
    root: Path | str,
    *,
    split: Split | None,
    classes: Sequence[str] | None = None,
    val_share: float = 0.2,
    seed: int = 0,
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

    Raises:
        DataError: no such folder, no class folders, no clips, fewer than two classes, or a class that
            `classes` or the train folder lacks.
        ConfigError: `val_share` is not in [0, 1), or `split` is unknown.
    """
    root = Path(root)
    _check_options(split, val_share)
    if not root.exists():
        raise DataError(f"{root}: no such folder; {_LAYOUT}")
    if not root.is_dir():
        raise DataError(f"{root}: not a folder; give a folder of classes or a .csv manifest")

    folders = _split_folders(root)
    if not folders:
        everything = _scan(root)
        names = _class_names(everything, classes)
        clip_list = _to_list(root, [everything], names)
        if split is None:
            return _all_of(clip_list, "the flat folder")
        return _seeded_side(clip_list, split, val_share, seed)

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
        return _seeded_side(clip_list, split, val_share, seed)
    stand_in = " (no test folder; model selection has seen these clips)" if own.name != "test" else ""
    note = f"{split}: {_size(clip_list)} from folder {own.name}{stand_in if split == 'test' else ''}"
    return replace(clip_list, note=_join(note, clip_list.note))


def has_split_folders(root: Path | str) -> bool:
    """Return True for a folder with train, val or test below it; False for a flat folder of classes."""
    return bool(_split_folders(Path(root)))


def fingerprint(clip_list: ClipList) -> dict[str, Any]:
    """What identifies a list of clips, for checkpoints: JSON-ready, independent of where the data lie.

    Returns:
        `sha256` over the class names and the sorted relative path, class, start and end of every clip (not
        over the videos' contents), `num_clips`, and `counts`, the number of clips by class.
    """
    lines = sorted(
        "\t".join(
            (
                relative_path(entry.path, clip_list.root),
                clip_list.classes[entry.label],
                format_moment(entry.start, entry.unit),
                format_moment(entry.end, entry.unit),
            )
        )
        for entry in clip_list
    )
    text = "\n".join((*clip_list.classes, "", *lines))
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return {"sha256": digest, "num_clips": len(clip_list), "counts": clip_list.counts()}


@dataclass(frozen=True)
class _Scan:
    """Clips by class in one folder of classes, and what was passed over."""

    folder: Path
    clips: dict[str, list[Path]]
    empty: list[str]
    others: int


def _check_options(split: str | None, val_share: float) -> None:
    if split is not None and split not in _SPLIT_FOLDERS:
        raise ConfigError(f"unknown split {split!r}; known are {', '.join(_SPLIT_FOLDERS)}")
    if not 0 <= val_share < 1:
        raise ConfigError(f"val_share must be at least 0 and under 1, got {val_share}")


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
            clips[class_folder.name] = found
        else:
            empty.append(class_folder.name)
    if not clips:
        images = any(path.suffix.lower() in IMAGE_SUFFIXES for path in _visible(class_folders[0]))
        hint = f"; images of one clip belong in a folder of their own, {class_folders[0]}/<clip>/" if images else ""
        raise DataError(f"{folder}: no clips in {len(class_folders)} class folders{hint}; {_LAYOUT}")
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
    index_of = {name: index for index, name in enumerate(names)}
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
    return ClipList(tuple(entries), names, root, _join(*notes))


def _all_of(clip_list: ClipList, parts: str) -> ClipList:
    return replace(clip_list, note=_join(f"all: {_size(clip_list)} from {parts}", clip_list.note))


def _seeded_side(clip_list: ClipList, split: Split, val_share: float, seed: int) -> ClipList:
    """The training side ("train") or the held-out side ("val", "test") of the seeded split."""
    held = _held_out_rows(clip_list, val_share, seed)
    wanted = [i for i in range(len(clip_list)) if (i in held) != (split == "train")]
    side = replace(clip_list, entries=tuple(clip_list.entries[i] for i in wanted))
    if val_share == 0 and split == "train":
        return replace(side, note=_join(f"{split}: {_size(side)}; nothing held out", clip_list.note))
    how = f"{val_share:.0%} of each class held out by seed {seed} from {len(clip_list)} clips, clip by clip"
    how += " (clips of one person or scene may be on both sides)"
    if split == "test":
        how += "; no test set of its own, so this is the val share, which model selection has seen"
    return replace(side, note=_join(f"{split}: {_size(side)}; {how}", clip_list.note))


def _held_out_rows(clip_list: ClipList, val_share: float, seed: int) -> set[int]:
    """Positions of the held-out clips.

    Videos come in the order of a hash of seed and path, and each goes to the held-out side while one of its
    classes still wants clips there. All segments of one video stay on one side, so that no frame is on both.
    """
    if val_share == 0:
        return set()
    sizes = Counter(entry.label for entry in clip_list)
    wanted = {
        label: min(max(1, int(val_share * size + 0.5)), size - 1) if size > 1 else 0 for label, size in sizes.items()
    }
    videos: dict[str, list[int]] = {}
    for position, entry in enumerate(clip_list):
        videos.setdefault(relative_path(entry.path, clip_list.root), []).append(position)

    held: set[int] = set()
    taken: Counter[int] = Counter()
    for name in sorted(videos, key=lambda name: _rank(seed, name)):
        labels = Counter(clip_list.entries[position].label for position in videos[name])
        useful = any(taken[label] < wanted[label] for label in labels)
        leaves_some = all(taken[label] + count < sizes[label] for label, count in labels.items())
        if useful and leaves_some:
            held.update(videos[name])
            taken.update(labels)
    return held


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogateescape")).digest()


def _size(clip_list: ClipList) -> str:
    return f"{len(clip_list)} clips of {len(clip_list.classes)} classes"


def _join(*notes: str) -> str:
    return "; ".join(note for note in notes if note)
