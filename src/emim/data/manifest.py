"""Lists of labelled clips, and the CSV manifest that stores one.

A manifest is UTF-8 CSV with a header and the columns `path,label[,start,end]`:

    path,label,start,end
    videos/a.mp4,wave,1.5,4
    videos/b.mp4,clap,30f,120f
    videos/c.mp4,wave,,

- path: a video file or a folder of frames, relative to the manifest's folder, or absolute.
- label: a class name. When every label is an integer, the labels are class indices instead, unless the
  class list holds one of them as a name. Without a class list the indices must be 0..n-1 with none
  missing, and the class names are then "0".."n-1".
- start, end: optional; seconds ("1.5") or a frame index ("120f"), end exclusive. An empty field means the
  start or end of the video. One row uses one unit.

The class list is `classes.txt` beside the manifest (see `emim.data.class_list`), or given by the caller, or
else the sorted labels of the rows.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from emim.data.class_list import classes_beside
from emim.errors import DataError, ManifestError
from emim.utils import atomic_write, nearest

RangeUnit = Literal["s", "frame"]

_REQUIRED = ("path", "label")
_COLUMNS = ("path", "label", "start", "end")
_INTEGER = re.compile(r"0|-?[1-9][0-9]*")
_MAX_LISTED = 5


@dataclass(frozen=True)
class ClipEntry:
    """One labelled clip.

    Attributes:
        path: video file or folder of frames.
        label: class index.
        start: first moment of the clip, in `unit`; None for the start of the video.
        end: moment after the last one (exclusive), in `unit`; None for the end of the video.
        unit: "s" (seconds) or "frame" (frame index) for start and end.
        row: line of the manifest, from 1, for error messages; None for clips found in folders.
    """

    path: Path
    label: int
    start: float | None = None
    end: float | None = None
    unit: RangeUnit = "s"
    row: int | None = field(default=None, compare=False)

    def frame_range(self, num_frames: int, fps: float) -> tuple[int, int]:
        """First frame and frame after the last one, within a video of `num_frames` at `fps`.

        Frame i is taken to start at i / fps, and belongs to the clip when that lies in [start, end). An end
        after the end of the video is cut there.

        Raises:
            DataError: the range holds no frame of the video.
        """
        first = 0 if self.start is None else self._frame(self.start, fps)
        stop = num_frames if self.end is None else min(self._frame(self.end, fps), num_frames)
        if first >= stop:
            row = "" if self.row is None else f" (manifest row {self.row})"
            raise DataError(
                f"{self.path}{row}: {self._range_text()} holds no frame; "
                f"the video has {num_frames} frames at {fps:g} fps"
            )
        return first, stop

    def _frame(self, moment: float, fps: float) -> int:
        # The tolerance keeps 0.1 s * 30 fps = 3.0000000000000004 at frame 3.
        return int(moment) if self.unit == "frame" else math.ceil(moment * fps - 1e-6)

    def _range_text(self) -> str:
        start = format_moment(self.start, self.unit) or "start"
        return f"clip range {start} to {format_moment(self.end, self.unit) or 'end'}"


@dataclass(frozen=True)
class ClipList:
    """Labelled clips with their class names.

    Attributes:
        entries: the clips; `entry.label` indexes `classes`.
        classes: class names in the order of the class indices.
        source: the folder or manifest that the list was read from.
        note: how the list came about (which split, what was left out), in words, for printing.
    """

    entries: tuple[ClipEntry, ...]
    classes: tuple[str, ...]
    source: Path
    note: str = ""

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[ClipEntry]:
        return iter(self.entries)

    @property
    def root(self) -> Path:
        """The folder that relative paths of clips start from."""
        return self.source.parent if self.source.suffix.lower() == ".csv" else self.source

    def counts(self) -> dict[str, int]:
        """Number of clips of every class, in class order; classes without a clip count 0."""
        counts = [0] * len(self.classes)
        for entry in self.entries:
            counts[entry.label] += 1
        return dict(zip(self.classes, counts, strict=True))


def format_moment(moment: float | None, unit: RangeUnit) -> str:
    """A start or end as a manifest writes it: "1.5", "120f", or "" for None."""
    if moment is None:
        return ""
    return f"{int(moment)}f" if unit == "frame" else repr(float(moment)).removesuffix(".0")


def relative_path(path: Path, root: Path) -> str:
    """`path` relative to `root` with forward slashes; absolute where it lies outside `root`."""
    # On text, because a manifest of hundreds of thousands of clips would take most of its time in pathlib.
    absolute, base = os.path.abspath(path), os.path.abspath(root)  # noqa: PTH100 keeps links
    if absolute == base:
        return "."
    base = os.path.join(base, "")  # noqa: PTH118 ends in a separator, for the root folder too
    inside = os.path.normcase(absolute).startswith(os.path.normcase(base))
    return (absolute[len(base) :] if inside else absolute).replace(os.sep, "/")


def read_manifest(
    path: Path | str,
    classes: Sequence[str] | None = None,
    *,
    check_files: bool = True,
    max_missing: float = 0.0,
) -> ClipList:
    """Read a manifest (format: see the module's docstring).

    Args:
        path: the CSV file; a byte order mark is accepted.
        classes: class names in index order, for example from a checkpoint. Default: those of `classes.txt`
            beside the file; without one, the sorted unique labels of the file.
        check_files: also require that the clips exist on disk.
        max_missing: share of the rows that may name a file which does not, rounded down.

    Raises:
        ManifestError: the file or one of its rows is wrong, or `classes.txt` beside it is, or that differs
            from `classes`; the message names file and row.
    """
    source = Path(path)
    rows = _read_rows(source)
    classes = classes_beside(source, classes)
    labels = [row.label for row in rows]
    numbered = all(_INTEGER.fullmatch(label) for label in labels) and not set(labels) & set(classes or ())
    if numbered:
        names, indices = _index_labels(source, rows, classes)
    else:
        names, indices = _name_labels(source, rows, classes)
    entries = tuple(
        ClipEntry(row.path, index, row.start, row.end, row.unit, row.number)
        for row, index in zip(rows, indices, strict=True)
    )
    _check_duplicates(source, entries)
    if check_files:
        _check_exists(source, entries, int(max_missing * len(entries)))
    note = f"{len(entries)} clips of {len(names)} classes from manifest {source.name}"
    if numbered:
        note += "; its labels are class indices"
    return ClipList(entries, names, source, note)


def write_manifest(path: Path | str, clip_list: ClipList) -> None:
    """Write `clip_list` as a manifest, so that an interrupted write leaves any earlier file whole.

    Paths below the manifest's folder are written relative to it. A class without a clip leaves no trace in
    the file: write `classes.txt` beside it, or pass `classes=` when reading, to keep its index.
    """
    target = Path(path)
    text = manifest_text(clip_list, target.parent)
    with atomic_write(target) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def manifest_text(clip_list: ClipList, folder: Path) -> str:
    """The content of a manifest of `clip_list` that lies in `folder`."""
    ranged = any(entry.start is not None or entry.end is not None for entry in clip_list)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS if ranged else _REQUIRED)
    for entry in clip_list:
        fields = [relative_path(entry.path, folder), clip_list.classes[entry.label]]
        if ranged:
            fields += [format_moment(entry.start, entry.unit), format_moment(entry.end, entry.unit)]
        writer.writerow(fields)
    return text.getvalue()


@dataclass(frozen=True)
class _Row:
    number: int
    path: Path
    label: str
    start: float | None
    end: float | None
    unit: RangeUnit


def _read_rows(source: Path) -> list[_Row]:
    try:
        content = source.read_bytes()
    except FileNotFoundError:
        raise ManifestError(source, None, "no such file") from None
    except OSError as error:
        raise ManifestError(source, None, f"cannot be read: {error.strerror}") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        reason = f"byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise ManifestError(source, row, reason) from error

    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[_Row] = []
    columns: list[str] | None = None
    try:
        for fields in reader:
            if not any(value.strip() for value in fields):
                continue
            if columns is None:
                columns = _check_header(source, reader.line_num, fields)
                continue
            rows.append(_parse_row(source, reader.line_num, columns, fields))
    except csv.Error as error:
        raise ManifestError(source, reader.line_num, f"not valid CSV: {error}") from error
    if columns is None:
        raise ManifestError(source, None, "the file is empty; expected the header path,label[,start,end]")
    if not rows:
        raise ManifestError(source, None, "no rows after the header")
    return rows


def _check_header(source: Path, number: int, fields: list[str]) -> list[str]:
    columns = [value.strip().lower() for value in fields]
    found = ",".join(fields)
    for column in _REQUIRED:
        if column not in columns:
            reason = f"column {column!r} is missing from the header {found!r}; expected path,label[,start,end]"
            raise ManifestError(source, number, reason)
    for column in columns:
        if column not in _COLUMNS:
            raise ManifestError(source, number, f"unknown column {column!r}; known are {', '.join(_COLUMNS)}")
        if columns.count(column) > 1:
            raise ManifestError(source, number, f"column {column!r} occurs twice in the header {found!r}")
    return columns


def _parse_row(source: Path, number: int, columns: list[str], fields: list[str]) -> _Row:
    if len(fields) != len(columns):
        reason = (
            f"{len(fields)} fields, but the header has {len(columns)} ({','.join(columns)}); "
            "put quotes around a value that contains a comma"
        )
        raise ManifestError(source, number, reason)
    values = {column: value.strip() for column, value in zip(columns, fields, strict=True)}
    for column in _REQUIRED:
        if not values[column]:
            raise ManifestError(source, number, f"empty {column}")
    start, start_unit = _parse_moment(source, number, "start", values.get("start", ""))
    end, end_unit = _parse_moment(source, number, "end", values.get("end", ""))
    if start_unit and end_unit and start_unit != end_unit:
        reason = f"start {values['start']!r} and end {values['end']!r} must both be seconds or both be frames"
        raise ManifestError(source, number, reason)
    if end is not None and (0.0 if start is None else start) >= end:
        reason = f"start {values.get('start') or '0'} is not before end {values['end']}"
        raise ManifestError(source, number, reason)
    # normpath (not resolve) keeps symbolic links, so that messages show the path the user wrote.
    path = Path(os.path.normpath(os.path.join(os.path.dirname(source), values["path"])))  # noqa: PTH118, PTH120
    return _Row(number, path, values["label"], start, end, start_unit or end_unit or "s")


def _parse_moment(source: Path, number: int, column: str, text: str) -> tuple[float | None, RangeUnit | None]:
    if not text:
        return None, None
    is_frame = text.endswith(("f", "F")) and text[:-1].isdigit()
    try:
        moment = float(int(text[:-1])) if is_frame else float(text)
    except ValueError:
        moment = math.nan
    if not math.isfinite(moment) or moment < 0:
        reason = f"{column} {text!r} is neither seconds (1.5) nor a frame index (120f), from 0"
        raise ManifestError(source, number, reason)
    return moment, "frame" if is_frame else "s"


def _index_labels(source: Path, rows: list[_Row], classes: Sequence[str] | None) -> tuple[tuple[str, ...], list[int]]:
    indices = [int(row.label) for row in rows]
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
            f"use 0 to {len(present) - 1} without gaps, or class names"
        )
        raise ManifestError(source, row.number, reason)
    return tuple(str(index) for index in range(size)), indices


def _name_labels(source: Path, rows: list[_Row], classes: Sequence[str] | None) -> tuple[tuple[str, ...], list[int]]:
    names = tuple(sorted({row.label for row in rows}) if classes is None else classes)
    index_of = {name: index for index, name in enumerate(names)}
    for row in rows:
        if row.label not in index_of:
            hint = nearest(row.label, names, cutoff=0.0)
            reason = f"label {row.label!r} is not one of the {len(names)} classes; {hint}"
            raise ManifestError(source, row.number, reason)
    return names, [index_of[row.label] for row in rows]


def _check_duplicates(source: Path, entries: tuple[ClipEntry, ...]) -> None:
    seen: dict[tuple[Path, float | None, float | None, RangeUnit], ClipEntry] = {}
    for entry in entries:
        first = seen.setdefault((entry.path, entry.start, entry.end, entry.unit), entry)
        if first is not entry:
            kind = "the same clip as" if first.label == entry.label else "the same clip with another label as"
            raise ManifestError(source, entry.row, f"{kind} row {first.row}: {entry.path}")


def _check_exists(source: Path, entries: tuple[ClipEntry, ...], allowed: int) -> None:
    paths = dict.fromkeys(entry.path for entry in entries)
    missing = {path for path in paths if not path.exists()}
    rows = [entry for entry in entries if entry.path in missing]
    if len(rows) <= allowed:
        return
    listed = ", ".join(f"{entry.path} (row {entry.row})" for entry in rows[:_MAX_LISTED])
    more = f" and {len(rows) - _MAX_LISTED} more" if len(rows) > _MAX_LISTED else ""
    but = f", {allowed} may" if allowed else ""
    reason = f"{len(rows)} of {len(entries)} rows name a missing file{but}: {listed}{more}"
    raise ManifestError(source, rows[0].row, reason)
