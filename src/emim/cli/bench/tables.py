"""How the reports of `emim bench` are printed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from emim.cli.console import print_table

if TYPE_CHECKING:
    from emim.bench.memory import PeakMemory
    from emim.bench.report import Report, Row

Column = tuple[str, "Callable[[Row], str]"]


def print_report(report: Report, title: Callable[[Mapping[str, Any]], str], *extra: Column) -> None:
    """Print a table for each set of conditions, then the candidates, those left out, and the machine.

    Args:
        report: what was found.
        title: the title of a table from its conditions.
        extra: columns after those of every part.
    """
    for conditions, group in itertools.groupby(report.rows, lambda row: row.conditions):
        rows = list(group)
        bases = list(dict.fromkeys(base for row in rows for base in row.over))
        header = ("candidate", "median ms", "quartiles", *(f"/ {base}" for base in bases))
        print_table(
            title(conditions),
            (*header, "peak MiB", *(name for name, _ in extra)),
            [
                (
                    row.name,
                    milliseconds(row.timing.median_ms),
                    " - ".join(map(milliseconds, row.timing.spread_ms)),
                    *(times(row.over.get(base)) for base in bases),
                    mebibytes(row.memory),
                    *(cell(row) for _, cell in extra),
                )
                for row in rows
            ],
        )
    print("\n".join(f"{name}: {what}" for name, what in report.what.items()))
    for name, reason in report.skipped.items():
        print(f"not run: {name} ({reason})")
    print_surroundings(report.surroundings)


def print_surroundings(surroundings: Mapping[str, Any]) -> None:
    """Print the settings of the measurement and the machine."""
    from emim.environment import Machine

    settings = surroundings["settings"]
    peers = "".join(f", {name} {version}" for name, version in surroundings["peers"].items())
    print(
        f"(median of {settings['repeats']} rounds after {settings['warmup']} to warm up, taken in turn; ratios within "
        f"rounds; {settings['device']}, {settings['threads']} threads)"
    )
    print(Machine(**surroundings["machine"]).line() + peers)
    if surroundings["instructions"]:
        print(f"CPU with {', '.join(surroundings['instructions'])}")


def milliseconds(value: float) -> str:
    """Format with three significant digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def times(ratio: float | None) -> str:
    """A ratio; a dash for None."""
    return "-" if ratio is None else f"{ratio:.1f}x" if ratio >= 10 else f"{ratio:.2f}x"


def mebibytes(memory: PeakMemory | None) -> str:
    """Peak memory; a dash where it was not measured."""
    return "-" if memory is None else f"{memory.peak_bytes / 2**20:.0f}"
