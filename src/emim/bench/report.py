"""What a benchmark found, in one form for tables and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from emim.bench.memory import PeakMemory
from emim.bench.timing import Timing, times_faster


@dataclass(frozen=True)
class Row:
    """One candidate under one set of conditions.

    Attributes:
        name: of the candidate.
        conditions: what was varied: {"pass": "forward"}, {"batch": 8, "precision": "bfloat16"}.
        timing: of every round.
        memory: its peak, or None if that was not measured.
        over: how many times as long it takes as other rows take, by a short name of those; within rounds.
        facts: anything else worth stating, plain values.
    """

    name: str
    conditions: Mapping[str, Any]
    timing: Timing
    memory: PeakMemory | None = None
    over: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, every single time included."""
        return {
            "name": self.name,
            **self.conditions,
            **self.timing.to_dict(),
            "wall_ms": list(self.timing.wall_ms),
            "cpu_ms": list(self.timing.cpu_ms),
            "peak_bytes": None if self.memory is None else self.memory.peak_bytes,
            "level_bytes": None if self.memory is None else self.memory.level_bytes,
            "over": dict(self.over),
            **self.facts,
        }


@dataclass(frozen=True)
class Report:
    """Everything that one part of `emim bench` found.

    Attributes:
        part: its name.
        problem: shapes and number formats.
        rows: results.
        what: what each candidate computes, by name.
        skipped: why candidates, or some of their rows, were not run, by name.
        surroundings: see `emim.bench.settings.surroundings`.
    """

    part: str
    problem: Mapping[str, Any]
    rows: Sequence[Row]
    what: Mapping[str, str]
    skipped: Mapping[str, str]
    surroundings: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "part": self.part,
            "problem": dict(self.problem),
            **self.surroundings,
            "rows": [row.to_dict() for row in self.rows],
            "what": dict(self.what),
            "skipped": dict(self.skipped),
        }


def compared(timing: Timing, others: Mapping[str, Timing | None]) -> dict[str, float]:
    """How many times as long `timing` takes as each of the others that ran in the same rounds."""
    return {name: times_faster(other, timing) for name, other in others.items() if other is not None}
