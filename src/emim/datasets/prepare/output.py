"""Write the results of preparing: a manifest for each split, `classes.txt`, and `prepare.json`.

`prepare.json` is written first and marks the folder as ours. Files whose content would not change are not touched.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emim.data.class_list import CLASS_LIST_NAME, class_list_text
from emim.data.folder import Split
from emim.data.manifest import ClipList, manifest_text
from emim.errors import DataError
from emim.utils import atomic_write

__all__ = ["REPORT_NAME", "LeftOut", "check_target", "left_out", "write_outputs"]

REPORT_NAME = "prepare.json"

_ALL_SPLITS: tuple[Split, ...] = ("train", "val", "test")


def check_target(out: Path, dataset: str, splits: tuple[Split, ...]) -> None:
    """Refuse a folder whose files this run must not replace.

    Raises:
        DataError: it is a file, or holds manifests that were not written by preparing this data set, or
            manifests of splits that this run would leave as they are.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file; name a folder to write to")
    report = out / REPORT_NAME
    held = [out / f"{split}.csv" for split in _ALL_SPLITS if (out / f"{split}.csv").exists()]
    if not report.exists():
        other = next(iter([*held, *filter(Path.exists, [out / CLASS_LIST_NAME])]), None)
        if other is not None:
            raise DataError(f"{other}: is there already and not from `emim prepare`; name another folder with -o")
        return
    try:
        found = json.loads(report.read_text(encoding="utf-8"))["dataset"]
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{report}: not readable; remove it, or name another folder with -o") from None
    if found != dataset:
        raise DataError(f"{out}: holds the data set {found!r}; name another folder for {dataset!r} with -o")
    stale = [path for path in held if path.stem not in splits]
    if stale:
        raise DataError(f"{stale[0]}: from a run with other splits; remove it, or name another folder with -o")


@dataclass(frozen=True)
class LeftOut:
    """Clips that a data set lists and that are not in the manifest of a split.

    Attributes:
        clips: number of clips left out.
        listed: clips of the split in the annotations.
        report: the file that names them.
    """

    clips: int
    listed: int
    report: Path


def left_out(manifest: Path) -> LeftOut | None:
    """The clips left out of a manifest, by the `prepare.json` beside it; None without any or without that file."""
    report = manifest.parent / REPORT_NAME
    try:
        split = json.loads(report.read_text(encoding="utf-8"))["splits"][manifest.stem]
        clips, listed = len(split["missing"]) + len(split["failed"]), int(split["listed"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return LeftOut(clips, listed, report) if clips else None


def write_outputs(out: Path, lists: dict[Split, ClipList], classes: tuple[str, ...], report: dict[str, Any]) -> bool:
    """Write all files; returns True if any of them changed.

    Raises:
        DataError: a class name cannot be written to a class list, or the folder cannot be written.
    """
    texts = {
        REPORT_NAME: json.dumps(report, indent=2, ensure_ascii=False) + "\n",
        CLASS_LIST_NAME: class_list_text(classes),
        **{f"{split}.csv": manifest_text(clip_list, out) for split, clip_list in lists.items()},
    }
    changed = False
    for name, text in texts.items():
        path = out / name
        try:
            content = text.encode("utf-8")
            if path.is_file() and path.read_bytes() == content:
                continue
            with atomic_write(path) as temporary:
                temporary.write_bytes(content)
        except UnicodeEncodeError as error:
            raise DataError(f"{path}: a name is not UTF-8 ({error.object[:80]!r}); rename that file") from error
        except OSError as error:
            raise DataError(f"{path}: cannot be written ({error.strerror})") from error
        changed = True
    return changed
