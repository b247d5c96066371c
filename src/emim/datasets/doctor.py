"""Examine every video of a list: report what is unusable or doubtful, and return the list without the unusable.

Every video is decoded completely, in worker processes, so that one that crashes or hangs does not stop the others.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from emim.data.class_list import composed
from emim.data.manifest import ClipEntry, ClipList, explain_missing, format_moment, relative_path
from emim.data.video import VIDEO_SUFFIXES
from emim.data.video.frame_folder import is_frame_folder
from emim.datasets.video_check import (
    MAX_FPS,
    Finding,
    Severity,
    VideoCheck,
    VideoFacts,
    check_video,
    loss_finding,
)
from emim.errors import ConfigError, DataError
from emim.isolation import WorkerLoss, run_isolated

__all__ = [
    "ADVICE",
    "EXPECTED_FPS_FACTOR",
    "FPS_FACTOR",
    "DoctorReport",
    "Problem",
    "examine",
    "list_videos",
    "summary_statistics",
]

# A frame rate that differs from the other videos', or from the time stamps, by more than this is doubtful.
FPS_FACTOR = 1.5
# The same for the rate given with `expected_fps`.
EXPECTED_FPS_FACTOR = 1.02
_LIMIT_SECONDS = 60.0
_LIMIT_SECONDS_PER_BYTE = 10.0 / 2**20

# The remedy for each kind of problem, in the order in which kinds are listed.
ADVICE: dict[str, str] = {
    "missing": "correct the path in the manifest, or copy the file there",
    "unreadable": "copy or download the file again, or leave it out",
    "truncated": "copy or download the file again, or leave it out",
    "damaged": "copy or download the file again; if that does not help, look at it and leave it out",
    "too slow": "decode it on its own, or re-encode it to a smaller size; the file need not be damaged",
    "too short": "leave it out; a network for motion needs several frames",
    "range": "correct start and end in the manifest",
    "conflict": "look at the videos and keep the one with the right label",
    "label": "look at the video; correct the label or move the file",
    "duplicate": "keep one of them, and never one in training and another in testing",
    "fps": "check that it plays at the right speed; re-encode it at its true rate",
    "variable fps": "nothing, unless timing matters: clips are sampled by frame number",
}
_SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Problem:
    """One problem of one video.

    Attributes:
        path: the video.
        rows: rows of the manifest that name the video; empty for a folder.
        kind: a key of `ADVICE`.
        severity: "error" (cannot be used), "warning" or "note".
        reason: one line.
    """

    path: Path
    rows: tuple[int, ...]
    kind: str
    severity: Severity
    reason: str

    @property
    def advice(self) -> str:
        """The remedy for this kind of problem."""
        return ADVICE[self.kind]


@dataclass(frozen=True)
class DoctorReport:
    """Result of an examination.

    Attributes:
        clip_list: the clips examined.
        clean: the list without entries that have errors, without the later ones of duplicates, and without all
            of those whose labels conflict.
        problems: errors first, then by kind and path.
        facts: of every video that decodes to its end.
        decoded_frames: frames decoded in all.
        wall_seconds: elapsed time.
    """

    clip_list: ClipList
    clean: ClipList
    problems: tuple[Problem, ...]
    facts: dict[Path, VideoFacts]
    decoded_frames: int
    wall_seconds: float

    def count(self, severity: Severity) -> int:
        """Number of problems of a severity."""
        return sum(problem.severity == severity for problem in self.problems)

    def counts(self) -> dict[str, int]:
        """Number of problems of every kind that occurs, in the order of `ADVICE`."""
        found = Counter(problem.kind for problem in self.problems)
        return {kind: found[kind] for kind in ADVICE if found[kind]}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "source": str(self.clip_list.source),
            "entries": len(self.clip_list),
            "clean_entries": len(self.clean),
            "videos": len({entry.path for entry in self.clip_list}),
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "notes": self.count("note"),
            "counts": self.counts(),
            "decoded_frames": self.decoded_frames,
            "decoded_frames_per_second": self.decoded_frames / self.wall_seconds if self.wall_seconds else 0.0,
            "hours": self.hours,
            "statistics": summary_statistics(self.facts.values()),
            "problems": [
                {
                    "path": str(problem.path),
                    "rows": list(problem.rows),
                    "kind": problem.kind,
                    "severity": problem.severity,
                    "reason": problem.reason,
                    "advice": problem.advice,
                }
                for problem in self.problems
            ],
        }

    @property
    def hours(self) -> float:
        """Length of all videos that decode to their end, each counted once."""
        return sum(facts.seconds for facts in self.facts.values()) / 3600


def summary_statistics(facts: Iterable[VideoFacts]) -> dict[str, Any]:
    """Minimum, median and maximum of frame rate, size and length, and the number of videos of each size."""
    known = list(facts)
    columns: dict[str, list[float]] = {
        "fps": [fact.fps for fact in known],
        "width": [fact.width for fact in known],
        "height": [fact.height for fact in known],
        "frames": [fact.frames for fact in known],
        "seconds": [fact.seconds for fact in known],
    }
    spread = {
        name: {"min": min(values), "median": statistics.median(values), "max": max(values)}
        for name, values in columns.items()
        if values
    }
    sizes = Counter(f"{fact.width}x{fact.height}" for fact in known)
    return {**spread, "sizes": dict(sizes.most_common())}


def list_videos(folder: Path) -> ClipList:
    """Every video file and folder of frames below a folder, without labels (one class with an empty name).

    Raises:
        DataError: there is none.
    """
    visible = [p for p in sorted(folder.rglob("*")) if not any(q.startswith(".") for q in p.relative_to(folder).parts)]
    found = [p for p in visible if (is_frame_folder(p) if p.is_dir() else p.suffix.lower() in VIDEO_SUFFIXES)]
    if not found:
        raise DataError(f"{folder}: no video file and no folder of frames in it")
    entries = tuple(ClipEntry(path, 0) for path in found)
    return ClipList(entries, ("",), folder, f"{len(found)} videos without labels below {folder}")


def examine(
    clip_list: ClipList,
    *,
    workers: int,
    min_frames: int = 2,
    expected_fps: float | None = None,
    time_limit: Callable[[Path], float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DoctorReport:
    """Decode every video of a list and report problems. The usual `__main__` guard is needed.

    Args:
        clip_list: from a folder or a manifest; its files need not exist.
        workers: processes, each of one thread.
        min_frames: fewest frames of a video, and of a clip range.
        expected_fps: frames per second that all videos should have; None compares them with each other.
        time_limit: seconds that a video may take; the default is one minute and ten seconds more for each MiB.
        progress: called with (videos done, videos in all).

    Raises:
        ConfigError: `workers` or `min_frames` is below 1, or `expected_fps` is not above 0.
    """
    if min_frames < 1:
        raise ConfigError(f"min_frames={min_frames}: give at least 1")
    if expected_fps is not None and not expected_fps > 0:
        raise ConfigError(f"expected fps {expected_fps}: give a number above 0")
    began = time.monotonic()
    examination = _Examination(clip_list, min_frames)
    paths = examination.missing()
    decoded = 0
    total = len(examination.positions)
    for done, (place, outcome) in enumerate(
        run_isolated(check_video, paths, workers=workers, time_limit=time_limit or _time_limit), start=1
    ):
        decoded += examination.take(paths[place], outcome)
        if progress is not None:
            progress(total - len(paths) + done, total)
    examination.ranges()
    examination.labels()
    examination.rates(expected_fps)
    examination.duplicates()
    return DoctorReport(
        clip_list,
        examination.clean(),
        tuple(sorted(examination.problems, key=_order)),
        dict(sorted(examination.facts.items())),
        decoded,
        time.monotonic() - began,
    )


def _time_limit(path: Path) -> float:
    size = path.stat().st_size if path.is_file() else 0
    return _LIMIT_SECONDS + size * _LIMIT_SECONDS_PER_BYTE if size else 100 * _LIMIT_SECONDS


def _order(problem: Problem) -> tuple[int, int, str, tuple[int, ...]]:
    return (
        _SEVERITIES.index(problem.severity),
        list(ADVICE).index(problem.kind),
        str(problem.path),
        problem.rows,
    )


class _Examination:
    """Collects the problems of a list, and the entries to drop."""

    def __init__(self, clip_list: ClipList, min_frames: int) -> None:
        self._list = clip_list
        self._min_frames = min_frames
        self.positions: dict[Path, list[int]] = defaultdict(list)
        for position, entry in enumerate(clip_list):
            self.positions[entry.path].append(position)
        self.problems: list[Problem] = []
        self.facts: dict[Path, VideoFacts] = {}
        self._dropped: set[int] = set()

    def _add(self, positions: list[int], finding: Finding, *, drop: bool = False) -> None:
        entries = [self._list.entries[position] for position in positions]
        rows = tuple(entry.row for entry in entries if entry.row is not None)
        self.problems.append(Problem(entries[0].path, rows, finding.kind, finding.severity, finding.reason))
        if drop or finding.severity == "error":
            self._dropped.update(positions)

    def clean(self) -> ClipList:
        kept = tuple(entry for position, entry in enumerate(self._list) if position not in self._dropped)
        return replace(self._list, entries=kept)

    def missing(self) -> list[Path]:
        """Report paths that do not exist; returns the others."""
        present: list[Path] = []
        for path, positions in self.positions.items():
            if os.path.exists(path):  # noqa: PTH110 which takes names that are too long
                present.append(path)
            else:
                self._add(positions, Finding("missing", "error", explain_missing(path, self._list.root)))
        return present

    def take(self, path: Path, outcome: VideoCheck | WorkerLoss) -> int:
        """Report the problems found in decoding one video; returns the number of frames decoded."""
        positions = self.positions[path]
        if isinstance(outcome, WorkerLoss):
            self._add(positions, loss_finding(outcome))
            return 0
        for finding in outcome.findings:
            self._add(positions, finding)
        if outcome.facts is not None:
            self.facts[path] = outcome.facts
            if outcome.facts.frames < self._min_frames:
                reason = f"has {_frames(outcome.facts.frames)}, fewer than {self._min_frames}"
                self._add(positions, Finding("too short", "error", reason))
        return outcome.decoded

    def ranges(self) -> None:
        """Report clip ranges that hold no frame, few frames, or reach beyond the video."""
        for position, entry in enumerate(self._list):
            facts = self.facts.get(entry.path)
            if facts is None or (entry.start is None and entry.end is None) or facts.frames < self._min_frames:
                continue
            text = f"clip range {_moment(entry, entry.start) or 'start'} to {_moment(entry, entry.end) or 'end'}"
            length = f"the video has {facts.frames} frames at {facts.fps:.4g} fps"
            try:
                first, stop = entry.frame_range(facts.frames, facts.fps)
            except DataError:
                self._add([position], Finding("range", "error", f"{text} holds no frame; {length}"))
                continue
            if stop - first < self._min_frames:
                few = f"{text} holds {_frames(stop - first)}, fewer than {self._min_frames}; {length}"
                self._add([position], Finding("too short", "error", few))
            beyond = 0.0 if entry.end is None else entry.end - facts.frames
            if entry.end is not None and entry.unit == "s":
                beyond = (entry.end - facts.seconds) * facts.fps - 1  # ends are often rounded up
            if beyond > 0:
                self._add([position], Finding("range", "warning", f"{text} reaches beyond the end; {length}"))

    def labels(self) -> None:
        """Report entries of a manifest that lie in the folder of another class."""
        names = set(self._list.classes)
        for position, entry in enumerate(self._list):
            folder, label = composed(entry.path.parent.name), self._list.classes[entry.label]
            if entry.row is not None and folder in names and folder != label:
                self._add(
                    [position], Finding("label", "warning", f"is labelled {label!r}, but lies in a folder {folder!r}")
                )

    def rates(self, expected: float | None) -> None:
        """Report frame rates that are absurd, contradict the time stamps, or differ from the others'."""
        usual = statistics.median(facts.fps for facts in self.facts.values()) if self.facts else 0.0
        for path, facts in self.facts.items():
            reason = _rate_trouble(facts, expected, usual)
            if reason is not None:
                self._add(self.positions[path], Finding("fps", "warning", reason))

    def duplicates(self) -> None:
        """Report clips of the same content at several paths."""
        groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        for position, entry in enumerate(self._list):
            if entry.path in self.facts and position not in self._dropped:
                groups[self.facts[entry.path].content, entry.start, entry.end, entry.unit].append(position)
        for positions in groups.values():
            entries = [self._list.entries[position] for position in positions]
            first = relative_path(entries[0].path, self._list.root)
            labels = [self._list.classes[entry.label] for entry in entries]
            conflict = len(set(labels)) > 1
            for position, label in zip(positions[1:], labels[1:], strict=True):
                same = f"has the same content as {first}{'' if entries[0].row is None else f' (row {entries[0].row})'}"
                if conflict:
                    reason = f"{same}; labelled {label!r} here, {labels[0]!r} there"
                    self._add([position], Finding("conflict", "error", reason))
                else:
                    self._add([position], Finding("duplicate", "warning", same), drop=True)
            if conflict:
                self._dropped.add(positions[0])


def _moment(entry: ClipEntry, moment: float | None) -> str:
    seconds = " s" if moment is not None and entry.unit == "s" else ""
    return format_moment(moment, entry.unit) + seconds


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"


def _rate_trouble(facts: VideoFacts, expected: float | None, usual: float) -> str | None:
    measured = facts.frames / facts.seconds if facts.seconds else 0.0
    declared = facts.declared_fps
    if declared and measured and _apart(declared, measured, FPS_FACTOR):
        return f"declares {declared:.4g} fps, but its time stamps say {measured:.4g}"
    if facts.fps > MAX_FPS:
        return f"has {facts.fps:.4g} fps, which is hardly true (above {MAX_FPS:g})"
    if expected is not None:
        if _apart(facts.fps, expected, EXPECTED_FPS_FACTOR):
            return f"has {facts.fps:.4g} fps, not {expected:g}"
    elif _apart(facts.fps, usual, FPS_FACTOR):
        return f"has {facts.fps:.4g} fps; the median of all videos is {usual:.4g}"
    return None


def _apart(one: float, other: float, factor: float) -> bool:
    return max(one, other) > factor * min(one, other)
