"""Which classes are taken for which."""

from __future__ import annotations

from dataclasses import dataclass

from emim.evaluation.testing import TestResult


@dataclass(frozen=True)
class Confused:
    """Clips of one class that were named another one.

    Attributes:
        label: their class.
        named: what they were named.
        clips: how many.
        share: of all clips of `label` that were tested.
    """

    label: str
    named: str
    clips: int
    share: float


def most_confused(result: TestResult, most: int) -> tuple[Confused, ...]:
    """The pairs with the most clips, those of a larger share first where equal."""
    names = [row.name for row in result.per_class]
    pairs = [
        Confused(names[label], names[named], count, count / sum(counts))
        for label, counts in enumerate(result.confusion)
        for named, count in enumerate(counts)
        if count and label != named
    ]
    return tuple(sorted(pairs, key=lambda pair: (-pair.clips, -pair.share, pair.label, pair.named))[:most])


@dataclass(frozen=True)
class Cell:
    """A cell of the matrix: its count, its share of the row, and whether it is on the diagonal."""

    count: int
    share: float
    right: bool


def matrix_rows(result: TestResult) -> tuple[tuple[str, tuple[Cell, ...]], ...]:
    """The matrix row by row, with the class of each."""
    return tuple(
        (
            row.name,
            tuple(Cell(count, count / max(1, sum(counts)), at == label) for at, count in enumerate(counts)),
        )
        for label, (row, counts) in enumerate(zip(result.per_class, result.confusion, strict=True))
    )
