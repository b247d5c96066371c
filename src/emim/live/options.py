"""How a live source is predicted."""

from __future__ import annotations

import math
from dataclasses import dataclass

from emim.errors import ConfigError


@dataclass(frozen=True)
class LiveOptions:
    """Times and limits of a live prediction.

    Attributes:
        stride: seconds from one prediction to the next.
        span: seconds that a clip spans; None: see `emim.live.clip.ClipShape`.
        smoothing: weight of the past in the moving average of scores, in [0, 1); 0 does not smooth.
        duration: seconds of the source after which to end; None goes on to its end.
        timeout: seconds without data after which a network source counts as lost.
        retries: attempts in a row to open a lost source.
        first_wait: seconds before the first of them; each further wait is twice as long.
        longest_wait: seconds that no wait exceeds.
    """

    stride: float = 0.25
    span: float | None = None
    smoothing: float = 0.6
    duration: float | None = None
    timeout: float = 10.0
    retries: int = 10
    first_wait: float = 0.5
    longest_wait: float = 30.0

    def __post_init__(self) -> None:
        for name in ("stride", "span", "duration", "timeout", "first_wait", "longest_wait"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} must be a number of seconds above 0, got {value}")
        if not 0 <= self.smoothing < 1:
            raise ConfigError(f"smoothing must be at least 0 and below 1, got {self.smoothing}")
        if self.retries < 0:
            raise ConfigError(f"retries must be at least 0, got {self.retries}")
        if self.longest_wait < self.first_wait:
            raise ConfigError(f"longest_wait ({self.longest_wait}) must be at least first_wait ({self.first_wait})")
