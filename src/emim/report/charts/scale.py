"""Axes: a range of values on a length, with round ticks."""

from __future__ import annotations

import math
from dataclasses import dataclass

_ROUND = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Scale:
    """Values `low` to `high` on the places `start` to `end`.

    Attributes:
        low: value at `start`.
        high: value at `end`, another one.
        start: place in the drawing.
        end: place in the drawing; smaller than `start` for an axis that points up.
        ticks: round values between `low` and `high`.
    """

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Where a value lies; values outside of the range lie at its ends."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)


def round_scale(low: float, high: float, start: float, end: float, *, about: int = 4, grow: bool = True) -> Scale:
    """A scale for values from `low` to `high` with about so many steps between ticks.

    Args:
        low: least value.
        high: largest value.
        start: place of the least.
        end: place of the largest.
        about: wanted number of steps.
        grow: let the range begin and end at a tick.
    """
    if not high > low:
        high = low + (abs(low) or 1.0)
    step = _round_step((high - low) / about)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [step * number for number in range(first, last + 1)]
    if grow:
        low, high = ticks[0], ticks[-1]
    slack = 1e-9 * (high - low)
    return Scale(low, high, start, end, tuple(tick for tick in ticks if low - slack <= tick <= high + slack))


def labels(ticks: tuple[float, ...]) -> tuple[str, ...]:
    """The ticks' values without the noise of their binary form; all in powers of ten where the largest is small."""
    if max(map(abs, ticks)) >= 0.01:
        return tuple(f"{tick:.6g}" for tick in ticks)
    return tuple("0" if tick == 0 else _in_powers(tick) for tick in ticks)


def _in_powers(value: float) -> str:
    mantissa, power = f"{value:.5e}".split("e")
    return f"{float(mantissa):g}e{int(power)}"


def _round_step(least: float) -> float:
    """The first round number that is at least so large, but for a little."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in _ROUND if factor * power >= least * (1 - 1e-9))
