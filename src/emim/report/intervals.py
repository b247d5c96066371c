"""The interval of the mean of the accuracies of classes."""

from __future__ import annotations

import math
from collections.abc import Sequence

Interval = tuple[float, float]

_Z_95 = 1.959963984540054
"""Standard normal quantile of a 95 % interval."""


def mean_interval(hits: Sequence[int], counts: Sequence[int]) -> Interval:
    """The 95 % interval of the mean over classes of their shares, within [0, 1].

    Normal, around the mean. The variance of a class's share is that with one hit and one miss more, so that a class
    with nothing but hits does not count as certain. In simulations of 5 to 174 classes with 5 or 20 clips each, it held
    the truth in 94.7 % of the draws or more (adding the squares of Wilson intervals did in as few as 85 %, as those
    lean towards one half).

    Args:
        hits: successes of each class, at least one class.
        counts: trials of each, at least 1.
    """
    number = len(hits)
    mean = sum(hit / count for hit, count in zip(hits, counts, strict=True)) / number
    variance = 0.0
    for hit, count in zip(hits, counts, strict=True):
        share = (hit + 1) / (count + 2)
        variance += share * (1 - share) / count
    half = _Z_95 * math.sqrt(variance) / number
    return max(0.0, mean - half), min(1.0, mean + half)
