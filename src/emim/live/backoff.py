"""How long to wait before the next attempt at a lost source."""

from __future__ import annotations


class Backoff:
    """Waits that double from attempt to attempt, up to a longest one.

    Args:
        first: seconds before the first attempt.
        longest: seconds that no wait exceeds.

    Attributes:
        attempts: waits given since the last `reset`.
    """

    def __init__(self, first: float = 0.5, longest: float = 30.0) -> None:
        if not 0 < first <= longest:
            raise ValueError(f"waits must be above 0 and rise, got {first} and {longest}")
        self._first = first
        self._longest = longest
        self._next = first
        self.attempts = 0

    def wait(self) -> float:
        """Seconds to wait before the next attempt."""
        seconds = self._next
        self._next = min(2 * seconds, self._longest)
        self.attempts += 1
        return seconds

    def reset(self) -> None:
        """The source is there again: the next loss begins with the first wait."""
        self._next = self._first
        self.attempts = 0
