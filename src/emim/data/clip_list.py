"""Labelled clips and lists of them."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from emim.errors import DataError

__all__ = [
    "MANIFEST_SUFFIXES",
    "ClipEntry",
    "ClipList",
    "RangeUnit",
    "Split",
    "fingerprint",
    "format_moment",
    "is_manifest",
    "relative_path",
]

RangeUnit = Literal["s", "frame"]
Split = Literal["train", "val", "test"]

MANIFEST_SUFFIXES = frozenset({".csv", ".tsv", ".tab", ".txt", ".list"})


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
        split: the split that the manifest assigns the clip to; None where it has no such column.
        group: clips of one group (person, film, machine) are kept on one side of a split; None where the manifest
            has no such column.
    """

    path: Path
    label: int
    start: float | None = None
    end: float | None = None
    unit: RangeUnit = "s"
    row: int | None = field(default=None, compare=False)
    split: Split | None = None
    group: str | None = None

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
        note: one line for the user: which split, what was left out, how the manifest was read.
    """

    entries: tuple[ClipEntry, ...]
    classes: tuple[str, ...]
    source: Path
    note: str = ""

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[ClipEntry]:
        return iter(self.entries)

    @cached_property
    def root(self) -> Path:
        """The folder that relative paths of clips start from."""
        return self.source.parent if is_manifest(self.source) else self.source

    def counts(self) -> dict[str, int]:
        """Number of clips of every class, in class order; classes without a clip count 0."""
        counts = [0] * len(self.classes)
        for entry in self.entries:
            counts[entry.label] += 1
        return dict(zip(self.classes, counts, strict=True))

    @cached_property
    def sha256(self) -> str:
        """Digest over the class names and the sorted relative path, class, start and end of every clip.

        It does not depend on where the data are stored, nor on the videos' contents. Computed once: it takes a
        second for some 200,000 clips.
        """
        lines = sorted(
            "\t".join(
                (
                    relative_path(entry.path, self.root),
                    self.classes[entry.label],
                    format_moment(entry.start, entry.unit),
                    format_moment(entry.end, entry.unit),
                )
            )
            for entry in self.entries
        )
        text = "\n".join((*self.classes, "", *lines))
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def fingerprint(clip_list: ClipList) -> dict[str, Any]:
    """A JSON-ready description that identifies a list of clips, for checkpoints.

    Returns:
        `sha256` (see `ClipList.sha256`), `num_clips`, and `counts`, the number of clips by class.
    """
    return {"sha256": clip_list.sha256, "num_clips": len(clip_list), "counts": clip_list.counts()}


def is_manifest(path: Path | str) -> bool:
    """True for the name of a manifest or list of clips (.csv, .tsv, .tab, .txt, .list) that is no folder."""
    return os.path.splitext(path)[1].lower() in MANIFEST_SUFFIXES and not os.path.isdir(path)  # noqa: PTH112, PTH122


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
