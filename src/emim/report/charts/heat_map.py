"""The confusion of many classes as a map of small squares."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

_LEVELS = 8


@dataclass(frozen=True)
class HeatMap:
    """Squares of 1 x 1, those of one shade in one path: a matrix of 400 x 400 has few elements then.

    Attributes:
        described: for those who cannot see it.
        side: number of rows and columns.
        right: opacity and path of the diagonal.
        wrong: opacity and path of the others.
    """

    described: str
    side: int
    right: tuple[tuple[float, str], ...]
    wrong: tuple[tuple[float, str], ...]


def heat_map(counts: Sequence[Sequence[int]], described: str) -> HeatMap:
    """A map of the share of each count in its row; empty cells are not drawn."""
    paths: dict[bool, dict[int, list[str]]] = {True: defaultdict(list), False: defaultdict(list)}
    for row, values in enumerate(counts):
        total = sum(values)
        for column, count in enumerate(values):
            if count:
                level = max(1, round(_LEVELS * count / total))
                paths[row == column][level].append(f"M{column} {row}h1v1h-1z")
    right, wrong = (
        tuple((level / _LEVELS, "".join(paths[side][level])) for level in sorted(paths[side])) for side in (True, False)
    )
    return HeatMap(described, len(counts), right, wrong)
