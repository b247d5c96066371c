"""What a run logged (`metrics.csv`), as series over epochs."""

from __future__ import annotations

import csv
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Row = dict[str, float]
Point = tuple[float, float]
"""Epochs (or steps) done, and the value."""


@dataclass(frozen=True)
class History:
    """The rows of the log, in order of the steps; each has `step`, and those of its figures that were logged then."""

    rows: tuple[Row, ...]

    @property
    def steps_per_epoch(self) -> float | None:
        """From the last epoch that ended; None where none has."""
        ends = [row for row in self.rows if "train_loss_epoch" in row and "epoch" in row]
        return None if not ends else (ends[-1]["step"] + 1) / (ends[-1]["epoch"] + 1)

    @property
    def axis(self) -> Literal["epoch", "step"]:
        """What series are over: steps, until an epoch has ended."""
        return "step" if self.steps_per_epoch is None else "epoch"

    @property
    def epochs_done(self) -> int:
        """Epochs that ended."""
        return max(
            (int(row["epoch"]) + 1 for row in self.rows if "train_loss_epoch" in row and "epoch" in row), default=0
        )

    @property
    def steps_done(self) -> int:
        """Steps that the log knows of."""
        return max((int(row["step"]) + 1 for row in self.rows), default=0)

    def series(self, key: str) -> tuple[Point, ...]:
        """The finite values of a figure, over the epochs done at the time."""
        per_epoch = self.steps_per_epoch or 1.0
        return tuple(
            ((row["step"] + 1) / per_epoch, row[key]) for row in self.rows if math.isfinite(row.get(key, math.nan))
        )

    def not_finite(self, key: str) -> int:
        """How many values of a figure are NaN or infinite."""
        return sum(not math.isfinite(row[key]) for row in self.rows if key in row)


def read_history(path: Path) -> History:
    """Read a `metrics.csv`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such file.
    """
    rows: list[Row] = []
    with path.open(encoding="utf-8", newline="") as file:
        for values in csv.DictReader(file):
            if not values.get("step"):
                continue  # a line that a crash cut short
            rows.append({key: float(text) for key, text in values.items() if key and text})
    return History(tuple(sorted(rows, key=lambda row: row["step"])))


def thinned(points: tuple[Point, ...], most: int) -> tuple[Point, ...]:
    """At most `most` points: means of neighbours, so that a long run's line is neither heavy nor a block of ink."""
    if len(points) <= most:
        return points
    bounds = [round(part * len(points) / most) for part in range(most + 1)]
    groups = [points[low:high] for low, high in itertools.pairwise(bounds)]
    return tuple((sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups)
