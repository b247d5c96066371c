"""Accuracy by class, with what each class is mostly taken for."""

from __future__ import annotations

from dataclasses import dataclass

from emim.evaluation.testing import TestResult, wilson_interval
from emim.report.intervals import Interval


@dataclass(frozen=True)
class ClassRow:
    """A class in the table.

    Attributes:
        name: of the class.
        clips: how many were tested.
        top1: share named rightly; None without clips.
        interval: its 95 % Wilson interval.
        taken_for: the class that most of its other clips were named, and how many.
    """

    name: str
    clips: int
    top1: float | None
    interval: Interval | None
    taken_for: tuple[str, int] | None


def class_rows(result: TestResult) -> tuple[ClassRow, ...]:
    """Those with the lowest accuracy first, those without clips last."""
    names = [row.name for row in result.per_class]
    rows = []
    for label, (row, counts) in enumerate(zip(result.per_class, result.confusion, strict=True)):
        others = [(count, -at) for at, count in enumerate(counts) if at != label and count]
        worst = max(others, default=None)
        rows.append(
            ClassRow(
                name=row.name,
                clips=row.clips,
                top1=row.top1,
                interval=wilson_interval(counts[label], row.clips) if row.clips else None,
                taken_for=None if worst is None else (names[-worst[1]], worst[0]),
            )
        )
    return tuple(sorted(rows, key=lambda row: 2.0 if row.top1 is None else row.top1))
