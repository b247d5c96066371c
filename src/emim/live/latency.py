"""Statistics of latencies in memory that does not grow, however long the stream runs."""

from __future__ import annotations

import math

_LEAST = 1e-4
_MOST = 1e4
_RATIO = 1.01


class LatencyStatistics:
    """Counts latencies in bins of 1 % width, so that a quantile is off by at most 1 %.

    Values outside 0.1 ms to 10 000 s count as these limits.

    Attributes:
        count: latencies added.
    """

    def __init__(self) -> None:
        self._bins = [0] * (_bin(_MOST) + 1)
        self.count = 0

    def add(self, seconds: float) -> None:
        """Count one latency."""
        self._bins[_bin(seconds)] += 1
        self.count += 1

    def quantile(self, share: float) -> float | None:
        """The least latency in seconds that at least `share` (0 to 1) of all do not exceed; None before the first."""
        if not 0 <= share <= 1:
            raise ValueError(f"share must lie in 0 to 1, got {share}")
        if not self.count:
            return None
        wanted = max(1, math.ceil(share * self.count))
        seen = 0
        for number, counted in enumerate(self._bins):
            seen += counted
            if seen >= wanted:
                return _LEAST * math.exp((number + 0.5) * math.log(_RATIO))
        raise AssertionError("the bins hold fewer latencies than were counted")


def _bin(seconds: float) -> int:
    return int(math.log(min(max(seconds, _LEAST), _MOST) / _LEAST) / math.log(_RATIO))
