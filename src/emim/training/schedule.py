"""The learning rate as a function of progress."""

from __future__ import annotations

import math


def learning_rate(progress: float, *, peak: float, floor: float, warmup: float) -> float:
    """Linear warm-up from `floor` to `peak`, then cosine back to `floor`.

    Args:
        progress: share of the training done, in [0, 1].
        peak: highest learning rate.
        floor: learning rate at the start and at the end.
        warmup: share of the training that warms up, in [0, 1].
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < warmup:
        return floor + (peak - floor) * progress / warmup
    rest = (progress - warmup) / (1.0 - warmup) if warmup < 1.0 else 1.0
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * rest))
