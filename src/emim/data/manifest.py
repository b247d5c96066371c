"""Read and write manifests: tables of labelled clips.

The plain form is UTF-8 CSV with a header and the columns `path,label[,start,end][,split][,group]`:

    path,label,start,end
    videos/a.mp4,wave,1.5,4
    videos/b.mp4,clap,30f,120f
    videos/c.mp4,wave,,

- path: a video file or a folder of frames, relative to the manifest's folder, or absolute.
- label: a class name. When every label is an integer, the labels are class indices instead, unless the
  class list holds one of them as a name. Without a class list the indices must be 0..n-1 with none
  missing, and the class names are then "0".."n-1".
- start, end: optional; seconds ("1.5"), a time ("01:02:03.5") or a frame index ("120f"), end exclusive. An empty
  field means the start or end of the video. One row uses one unit.
- split: optional; train, val or test. See `emim.data.folder.split_clips`.
- group: optional; clips of one group (person, film, machine) are never on both sides of a split.

Other separators, encodings, names of columns, and lists without header are understood too
(`emim.data.manifest_table`), and the note of the list says so.

The class list is `classes.txt` beside the manifest (see `emim.data.class_list`), or given by the caller, or
else the sorted labels of the rows. Without a class list, labels that can hardly be meant are an error.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from emim.data.class_list import (
    CLASS_LIST_NAME,
    PATH_LIMIT,
    classes_beside,
    clipped,
    composed,
    doubtful_name,
    same_but_for_case,
    shortened,
)
from emim.data.clip_list import (
    ClipEntry,
    ClipList,
    RangeUnit,
    Split,
    format_moment,
    is_manifest,
    relative_path,
)
from emim.data.manifest_columns import REQUIRED, parse_columns
from emim.data.manifest_table import Table, read_table
from emim.data.video import VIDEO_SUFFIXES
from emim.errors import ManifestError
from emim.utils import atomic_write, nearest

__all__ = [
    "ClipEntry",
    "ClipList",
    "check_files_exist",
    "explain_missing",
    "format_moment",
    "is_manifest",
    "manifest_text",
    "parse_columns",
    "read_manifest",
    "relative_path",
    "write_manifest",
]

_log = logging.getLogger(__name__)

_INTEGER = re.compile(r"0|-?[1-9][0-9]*")
_FLOATED = re.compile(r"(0|[1-9][0-9]*)(\.0+)?")
_SECONDS = re.compile(
    r"(?:(?:(?P<h>\d{1,4}):)?(?P<m>\d{1,4}):)?(?P<s>\d+(?:[.,]\d*)?|[.,]\d+)(?:e(?P<e>[+-]?\d{1,3}))?"
)
_FRAME = re.compile(r"(\d+)(?:\.0+)?f?")
# Seconds or frames; a clip that begins later than in 31 years is a mistake.
_MAX_MOMENT = 1e9
_MAX_INDEX_DIGITS = 9
_MAX_LISTED = 5

_SPLITS: dict[str, Split] = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}


def read_manifest(
    path: Path | str,
    classes: Sequence[str] | None = None,
    *,
    columns: str | Mapping[str, str] | None = None,
    check_files: bool = True,
    max_missing: float = 0.0,
) -> ClipList:
    """Read a manifest (format: see the module's docstring).

    Args:
        path: the file.
        classes: class names in index order, for example from a checkpoint. Default: those of `classes.txt`
            beside the file; without one, the sorted unique labels of the file.
        columns: which column holds what, such as "path=video_path,label=class" (see `parse_columns`). Default: by
            their names.
        check_files: also require that the clips exist on disk.
        max_missing: share of the rows that may name a file that does not exist, rounded down.

    Raises:
        ManifestError: the file or one of its rows is wrong, or `classes.txt` beside it is, or that differs
            from `classes`; the message names file and row.
        ConfigError: `columns` is not of its form.
    """
    source = Path(path)
    table = read_table(source, parse_columns(columns) if isinstance(columns, str) else columns)
    rows = _Rows(source, table).parse()
    classes = classes_beside(source, classes)
    names, indices, remark = _resolve_labels(source, rows, classes)
    entries = tuple(
        ClipEntry(row.path, index, row.start, row.end, row.unit, row.number, row.split, row.group)
        for row, index in zip(rows, indices, strict=True)
    )
    _check_duplicates(source, entries)
    _check_groups(source, entries)
    clip_list = ClipList(entries, names, source)
    if check_files:
        check_files_exist(clip_list, max_missing)
    note = f"{len(entries)} clips of {len(names)} classes from manifest {source.name}"
    if table.remarks:
        note += f" (read as: {'; '.join(table.remarks)})"
    return ClipList(entries, names, source, f"{note}; {remark}" if remark else note)


def check_files_exist(clip_list: ClipList, max_missing: float = 0.0) -> None:
    """Require that the files of a list exist, but for a share `max_missing` of its clips, rounded down.

    Raises:
        ManifestError: more of them are missing; names the first ones.
    """
    # os.path.exists is False for names that are too long; Path.exists raises an error.
    missing = {path for path in dict.fromkeys(e.path for e in clip_list) if not os.path.exists(path)}  # noqa: PTH110
    rows = [entry for entry in clip_list if entry.path in missing]
    allowed = int(max_missing * len(clip_list))
    if len(rows) <= allowed:
        return
    listed = ", ".join(f"{clipped(str(entry.path), PATH_LIMIT)} (row {entry.row})" for entry in rows[:_MAX_LISTED])
    more = f" and {len(rows) - _MAX_LISTED} more" if len(rows) > _MAX_LISTED else ""
    but = f", {allowed} may" if allowed else ""
    near = explain_missing(rows[0].path, clip_list.root).partition("; ")[2]
    near = f"; {near}" if near else ""
    reason = f"{len(rows)} of {len(clip_list)} rows name a missing file{but}: {listed}{more}{near}"
    raise ManifestError(clip_list.source, rows[0].row, reason)


def write_manifest(path: Path | str, clip_list: ClipList) -> None:
    """Write `clip_list` as a manifest, so that an interrupted write leaves any earlier file whole.

    Paths below the manifest's folder are written relative to it. A class without a clip leaves no trace in
    the file: write `classes.txt` beside it, or pass `classes=` when reading, to keep its index. The same is needed
    for names that are refused without a class list (`emim.data.class_list.needs_class_list`).
    """
    target = Path(path)
    text = manifest_text(clip_list, target.parent)
    with atomic_write(target) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def manifest_text(clip_list: ClipList, folder: Path) -> str:
    """The content of a manifest of `clip_list` that lies in `folder`."""
    ranged = any(entry.start is not None or entry.end is not None for entry in clip_list)
    divided = any(entry.split is not None for entry in clip_list)
    grouped = any(entry.group is not None for entry in clip_list)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    header = (("start", "end"), ranged), (("split",), divided), (("group",), grouped)
    writer.writerow([*REQUIRED, *(name for names, used in header if used for name in names)])
    for entry in clip_list:
        fields = [_guarded(relative_path(entry.path, folder)), clip_list.classes[entry.label]]
        if ranged:
            fields += [format_moment(entry.start, entry.unit), format_moment(entry.end, entry.unit)]
        if divided:
            fields.append(entry.split or "")
        if grouped:
            fields.append(entry.group or "")
        writer.writerow(fields)
    return text.getvalue()


def _guarded(path: str) -> str:
    """A path that reads back the same: not as a comment, and with its outer spaces."""
    if path[:1] == "#" or path[:1].isspace():
        path = f"./{path}"
    return f"{path}/." if path[-1:].isspace() else path


# --- rows ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    number: int
    path: Path
    label: str
    start: float | None
    end: float | None
    unit: RangeUnit
    split: Split | None
    group: str | None


class _Rows:
    """Turns the fields of a table into values; what is not plain about them becomes a remark of the table."""

    def __init__(self, source: Path, table: Table) -> None:
        self._source = source
        self._table = table
        self._folder = os.path.dirname(source)  # noqa: PTH120
        self._remarks: dict[str, None] = {}
        self._labels: dict[str, str] = {}

    def parse(self) -> list[_Row]:
        self._check_split_column()
        rows = [self._row(number, fields) for number, fields in self._table.rows]
        self._table.remarks.extend(self._remarks)
        return rows

    def _check_split_column(self) -> None:
        """A column "set" or "usage" that holds other values is no split."""
        position = self._table.roles.get("split")
        if position is None or self._table.column_name("split").casefold() == "split":
            return
        if not all(fields[position].casefold() in _SPLITS for _, fields in self._table.rows):
            self._table.remarks.append(f"column {self._table.column_name('split')!r} names no splits, so not used")
            del self._table.roles["split"]

    def _row(self, number: int, fields: list[str]) -> _Row:
        values = {role: fields[position] for role, position in self._table.roles.items()}
        for role in REQUIRED:
            if not values[role]:
                raise ManifestError(self._source, number, f"empty {role}")
        start, start_unit = self._moment(number, "start", values.get("start", ""))
        end, end_unit = self._moment(number, "end", values.get("end", ""))
        if start_unit and end_unit and start_unit != end_unit:
            reason = f"start {values['start']!r} and end {values['end']!r} must both be seconds or both be frames"
            raise ManifestError(self._source, number, reason)
        if end is not None and (0.0 if start is None else start) >= end:
            reason = f"start {values.get('start') or '0'} is not before end {values['end']}"
            raise ManifestError(self._source, number, reason)
        return _Row(
            number, self._path(number, values["path"]), self._label(number, values["label"]),
            start, end, start_unit or end_unit or "s", self._split(number, values), self._group(number, values),
        )  # fmt: skip

    def _path(self, number: int, text: str) -> Path:
        if "\\" in text and os.sep == "/" and not os.path.exists(os.path.join(self._folder, text)):  # noqa: PTH110, PTH118
            text = text.replace("\\", "/")
            self._remarks["backslashes in paths taken as /"] = None
        if "\n" in text or "\r" in text:
            raise ManifestError(self._source, number, f"path {shortened(text)} holds a line break; check the quotes")
        # normpath (not resolve) keeps symbolic links, so that messages show the path the user wrote.
        return Path(os.path.normpath(os.path.join(self._folder, text)))  # noqa: PTH118

    def _label(self, number: int, text: str) -> str:
        known = self._labels.get(text)
        if known is None:
            known = self._labels[text] = composed(text)
            if known != text:
                self._remarks[f"label {shortened(known)} put into composed form (NFC), first in row {number}"] = None
        return known

    def _split(self, number: int, values: dict[str, str]) -> Split | None:
        if "split" not in values:
            return None
        split = _SPLITS.get(values["split"].casefold())
        if split is None:
            reason = f"split {shortened(values['split'])} is none of train, val, test"
            unused = "if the column means something else, say so: --columns split="
            raise ManifestError(self._source, number, f"{reason}; {unused}")
        return split

    def _group(self, number: int, values: dict[str, str]) -> str | None:
        if "group" not in values:
            return None
        if not values["group"]:
            raise ManifestError(self._source, number, f"empty {self._table.column_name('group')}")
        return composed(values["group"])

    def _moment(self, number: int, role: str, text: str) -> tuple[float | None, RangeUnit | None]:
        if not text:
            return None, None
        kind = self._table.unit.get(role, "s")
        moment, unit = self._value(text, kind)
        if moment is None:
            wanted = {
                "s": "neither seconds (1.5) nor a time (01:02:03.5) nor a frame index (120f), from 0",
                "ms": "no number of milliseconds (1500), from 0",
                "frame": "no frame index (120), from 0",
            }[kind]
            raise ManifestError(self._source, number, f"{role} {shortened(text)} is {wanted}")
        if moment > _MAX_MOMENT:
            raise ManifestError(self._source, number, f"{role} {shortened(text)} is beyond any video")
        return moment, unit

    def _value(self, text: str, kind: str) -> tuple[float | None, RangeUnit]:
        low = text.lower()
        if kind == "frame" or (low.endswith("f") and kind == "s"):
            found = _FRAME.fullmatch(low) if low.isascii() else None
            if found is None or (low.endswith("f") and "." in low):
                return None, "frame"
            return float(found[1]), "frame"
        return self._seconds(low.removesuffix("s").rstrip() if kind == "s" else low, kind), "s"

    def _seconds(self, text: str, kind: str) -> float | None:
        found = _SECONDS.fullmatch(text) if text.isascii() else None
        if found is None:
            return None
        if "," in text:
            if self._table.separator == ",":  # 1,500 may be a thousand and a half
                return None
            self._remarks["decimal commas"] = None
        value = float(found["s"].replace(",", "."))
        if found["e"]:
            value *= 10.0 ** min(int(found["e"]), 300)
        if found["m"]:
            if value >= 60 or (found["h"] and int(found["m"]) >= 60):
                return None
            self._remarks["times as [hh:]mm:ss"] = None
            value += 60 * int(found["m"]) + 3600 * int(found["h"] or 0)
        return value / 1000 if kind == "ms" else value


# --- labels ----------------------------------------------------------------------------------------


def _resolve_labels(
    source: Path, rows: list[_Row], classes: Sequence[str] | None
) -> tuple[tuple[str, ...], list[int], str]:
    """Class names, class index of every row, and a remark for the note."""
    known = {*map(composed, classes or ())}
    by_label: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        by_label[row.label].append(row.number)
    if not known & by_label.keys():
        if all(_INTEGER.fullmatch(label) for label in by_label):
            return *_index_labels(source, rows, [row.label for row in rows], classes), "its labels are class indices"
        if all(_FLOATED.fullmatch(label) for label in by_label):
            # pandas makes numbers of a column float where a value is missing.
            whole = [row.label.partition(".")[0] for row in rows]
            first = next(row for row in rows if "." in row.label)
            remark = f"its labels are class indices, written with decimals ({first.label} in row {first.number})"
            return *_index_labels(source, rows, whole, classes), remark
    if not known:
        _check_names(source, by_label)
    return *_name_labels(source, rows, classes), ""


def _check_names(source: Path, by_label: dict[str, list[int]]) -> None:
    """Refuse labels that can hardly be meant as class names. A class list would settle the matter.

    Raises:
        ManifestError: names the label and its rows.
    """
    how = f"list the classes in {CLASS_LIST_NAME} beside the manifest, one a line"
    for label, numbers in by_label.items():
        reason, then = doubtful_name(label), f"if it is a class, {how}"
        if reason is None and Path(label).stem and Path(label).suffix.lower() in VIDEO_SUFFIXES:
            reason, then = (
                "is the name of a video",
                "exchange the columns path and label, or choose them with --columns",
            )
        if reason is not None:
            where = _row_list(numbers)
            raise ManifestError(source, numbers[0], f"label {shortened(label)} {reason} (in {where}); {then}")
    decimal = next((label for label in by_label if re.fullmatch(r"[0-9]+\.0+", label)), None)
    if decimal is not None:
        other = next(label for label in by_label if not _FLOATED.fullmatch(label))
        name = f"{shortened(other)} (in {_row_list(by_label[other])}) is a name"
        reason = f"label {decimal!r} is a class index with decimals, but {name}; if both are classes, {how}"
        raise ManifestError(source, by_label[decimal][0], reason)
    pair = same_but_for_case(by_label)
    if pair is not None:
        one, other = (f"{shortened(label)} (in {_row_list(by_label[label])})" for label in pair)
        reason = f"labels {one} and {other} differ in upper and lower case or spaces alone; write them alike"
        raise ManifestError(source, by_label[pair[1]][0], f"{reason}, or if they are two classes, {how}")
    slashed = next((label for label in by_label if "/" in label), None)
    if slashed is not None:
        where = _row_list(by_label[slashed])
        _log.warning("%s: label %s (in %s) holds a slash; is it a path?", source, shortened(slashed), where)


def _row_list(numbers: list[int]) -> str:
    listed = ", ".join(map(str, numbers[:_MAX_LISTED]))
    more = f" and {len(numbers) - _MAX_LISTED} more" if len(numbers) > _MAX_LISTED else ""
    return f"row{'s' * (len(numbers) > 1)} {listed}{more}"


def _index_labels(
    source: Path, rows: list[_Row], labels: list[str], classes: Sequence[str] | None
) -> tuple[tuple[str, ...], list[int]]:
    for row, label in zip(rows, labels, strict=True):
        if len(label) > _MAX_INDEX_DIGITS:
            raise ManifestError(source, row.number, f"class index {clipped(label)} is larger than any")
    indices = [int(label) for label in labels]
    size = max(indices) + 1 if classes is None else len(classes)
    for row, index in zip(rows, indices, strict=True):
        if index < 0:
            raise ManifestError(source, row.number, f"class index {index} is negative; indices start at 0")
        if index >= size:
            reason = f"class index {index} is outside the {size} classes (0 to {size - 1})"
            raise ManifestError(source, row.number, reason)
    if classes is not None:
        return tuple(classes), indices
    present = set(indices)
    missing = next((index for index in range(size) if index not in present), None)
    if missing is not None:
        # The first row above the gap is where a reader should look.
        row = next(row for row, index in zip(rows, indices, strict=True) if index > missing)
        reason = (
            f"label {row.label} is a class index, but no row has index {missing}; "
            f"use 0 to {len(present) - 1} without gaps, or class names (or list all classes in {CLASS_LIST_NAME})"
        )
        raise ManifestError(source, row.number, reason)
    return tuple(str(index) for index in range(size)), indices


def _name_labels(source: Path, rows: list[_Row], classes: Sequence[str] | None) -> tuple[tuple[str, ...], list[int]]:
    names = tuple(sorted({row.label for row in rows}) if classes is None else classes)
    index_of = {composed(name): index for index, name in enumerate(names)}
    for row in rows:
        if row.label not in index_of:
            hint = nearest(row.label, names, cutoff=0.0)
            reason = f"label {shortened(row.label)} is not one of the {len(names)} classes; {hint}"
            raise ManifestError(source, row.number, reason)
    return names, [index_of[row.label] for row in rows]


# --- the whole list --------------------------------------------------------------------------------


def _check_duplicates(source: Path, entries: tuple[ClipEntry, ...]) -> None:
    seen: dict[tuple[Path, float | None, float | None, RangeUnit], ClipEntry] = {}
    for entry in entries:
        first = seen.setdefault((entry.path, entry.start, entry.end, entry.unit), entry)
        if first is not entry:
            kind = "the same clip as" if first.label == entry.label else "the same clip with another label as"
            raise ManifestError(source, entry.row, f"{kind} row {first.row}: {clipped(str(entry.path), PATH_LIMIT)}")


def _check_groups(source: Path, entries: tuple[ClipEntry, ...]) -> None:
    """Require that the clips of a group are of one split.

    Raises:
        ManifestError: names two rows that contradict each other.
    """
    first_of: dict[str, ClipEntry] = {}
    for entry in entries:
        if entry.group is not None and entry.split is not None:
            first = first_of.setdefault(entry.group, entry)
            if first.split != entry.split:
                reason = f"group {shortened(entry.group)} is in {first.split} (row {first.row}) and in {entry.split}"
                raise ManifestError(source, entry.row, f"{reason}; clips of one group belong on one side")


_PLAIN = "no such file"


def explain_missing(path: Path, root: Path) -> str:
    """Say in one line what lies close to a path that does not exist; paths are given relative to `root`."""
    here = Path(path.anchor)
    parts = path.parts[1:] if path.anchor else path.parts
    respelled = False
    for number, part in enumerate(parts):
        if os.path.exists(here / part):  # noqa: PTH110
            here /= part
            continue
        names = _names(here)
        same = sorted(name for name in names if composed(name).casefold() == composed(part).casefold())
        if same:
            here, respelled = here / same[0], True
            continue
        if number < len(parts) - 1:
            return f"no such file; there is no folder {clipped(relative_path(here / part, root), PATH_LIMIT)}"
        stem = Path(part).stem.casefold()
        kin = sorted(name for name in names if Path(name).stem.casefold() == stem)
        return f"no such file; with another extension there is {relative_path(here / kin[0], root)}" if kin else _PLAIN
    found = relative_path(here, root)
    return f"no such file; in another spelling there is {found}" if respelled else _PLAIN


def _names(folder: Path) -> list[str]:
    try:
        return [child.name for child in folder.iterdir()]
    except OSError:
        return []
