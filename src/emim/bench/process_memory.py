"""Memory of this process and of those that it has started, as Linux counts it."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path

_MIB = 2**20


@dataclass(frozen=True)
class TreeMemory:
    """Memory of several processes together, in MiB.

    Attributes:
        pss: pages that processes share count once, divided among them.
        rss: pages that processes share count in each of them.
    """

    pss: float
    rss: float


def tree_memory() -> TreeMemory | None:
    """This process and its living children of `multiprocessing`, loader workers among them; None without /proc."""
    children = [child.pid for child in multiprocessing.active_children() if child.pid is not None]
    totals = {"Pss:": 0, "Rss:": 0}
    for process in (os.getpid(), *children):
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            if process == os.getpid():
                return None
            continue  # it has just ended
        for line in lines:
            name, *numbers = line.split()
            if name in totals:
                totals[name] += 1024 * int(numbers[0])
    return TreeMemory(totals["Pss:"] / _MIB, totals["Rss:"] / _MIB)
