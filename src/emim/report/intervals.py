"""The interval of a mean of shares that each have one."""

from __future__ import annotations

import math
from collections.abc import Sequence

Interval = tuple[float, float]


def mean_interval(shares: Sequence[float], intervals: Sequence[Interval]) -> Interval:
    """The interval of the mean of independent shares, from theirs, by adding squares (MOVER).

    On either side, the distance of the mean to its bound is the root of the sum of the squared distances of the shares
    to theirs, over their number. Unlike a normal approximation or a bootstrap it has a width where every share is 0 or
    1, as the intervals of such shares have one. Source: Zou and Donner, Construction of confidence limits about effect
    measures, Statistics in Medicine 27, 2008.

    Args:
        shares: in [0, 1], at least one.
        intervals: of each, of one level (95 % Wilson, say).
    """
    count = len(shares)
    mean = sum(shares) / count
    below = math.hypot(*(share - low for share, (low, _) in zip(shares, intervals, strict=True))) / count
    above = math.hypot(*(high - share for share, (_, high) in zip(shares, intervals, strict=True))) / count
    return max(0.0, mean - below), min(1.0, mean + above)
