"""Times of several ways of doing the same job, taken in turn so that other load meets all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Timing:
    """Repeated times of one job, in milliseconds.

    Attributes:
        wall_ms: by the clock, one per repeat, in the order taken.
        cpu_ms: spent by this process on all its threads, likewise; hardly disturbed by other processes.
    """

    wall_ms: tuple[float, ...]
    cpu_ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        return statistics.median(self.wall_ms)

    @property
    def cpu_median_ms(self) -> float:
        return statistics.median(self.cpu_ms)

    @property
    def spread_ms(self) -> tuple[float, float]:
        """The quartiles of the times by the clock."""
        return quartiles(self.wall_ms)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        low, high = self.spread_ms
        return {
            "median_ms": self.median_ms,
            "quartiles_ms": [low, high],
            "cpu_median_ms": self.cpu_median_ms,
            "repeats": len(self.wall_ms),
        }


def interleaved(jobs: Mapping[str, Callable[[], object]], repeats: int, warmup: int = 1) -> dict[str, Timing]:
    """Time jobs in turn: each round runs all of them once, starting with another one each time.

    Args:
        jobs: what to run, by name.
        repeats: rounds that count.
        warmup: rounds before them that do not.
    """
    names = list(jobs)
    wall: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    for round_number in range(-warmup, repeats):
        turn = round_number % len(names)
        for name in names[turn:] + names[:turn]:
            cpu_start, start = time.process_time(), time.perf_counter()
            jobs[name]()
            stop, cpu_stop = time.perf_counter(), time.process_time()
            if round_number >= 0:
                wall[name].append(1e3 * (stop - start))
                cpu[name].append(1e3 * (cpu_stop - cpu_start))
    return {name: Timing(tuple(wall[name]), tuple(cpu[name])) for name in names}


def times_faster(job: Timing, other: Timing) -> float:
    """How many times as long the other job takes: the median over rounds, in which load met both."""
    return statistics.median(b / a for a, b in zip(job.wall_ms, other.wall_ms, strict=True))


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The lower and the upper quartile; of a single value, that value twice."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high
