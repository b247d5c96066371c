"""Charts as geometry, which the templates draw as inline SVG: lines, heat maps, intervals.

The colours are variables of the page, which follow light, dark and print.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from emim.report.formatting import percent
from emim.training.run_folder import Point, subsample

__all__ = [
    "WIDTH",
    "DrawnLine",
    "HeatMap",
    "Ink",
    "Interval",
    "Line",
    "LineChart",
    "Scale",
    "Whisker",
    "WhiskerChart",
    "heat_map",
    "labels",
    "line_chart",
    "mean_interval",
    "round_scale",
    "whisker_chart",
]

_ROUND = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Scale:
    """A linear axis that maps the values `low` to `high` to the positions `start` to `end`.

    Attributes:
        low: value at `start`.
        high: value at `end`; differs from `low`.
        start: position in the drawing.
        end: position in the drawing; smaller than `start` for an axis that points up.
        ticks: round values between `low` and `high`.
    """

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Return the position of a value; values outside the range are clamped."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)


def round_scale(low: float, high: float, start: float, end: float, *, about: int = 4, grow: bool = True) -> Scale:
    """Make an axis with round ticks.

    Args:
        low: smallest value.
        high: largest value.
        start: position of the smallest value.
        end: position of the largest value.
        about: approximate number of steps between ticks.
        grow: extend the range to the next ticks.
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
    """Format the ticks without binary rounding noise; all with powers of ten where the largest is small."""
    if max(map(abs, ticks)) >= 0.01:
        return tuple(f"{tick:.6g}" for tick in ticks)
    return tuple("0" if tick == 0 else _in_powers(tick) for tick in ticks)


def _in_powers(value: float) -> str:
    mantissa, power = f"{value:.5e}".split("e")
    return f"{float(mantissa):g}e{int(power)}"


def _round_step(least: float) -> float:
    """Return the first round number that is at least `least`, up to rounding."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in _ROUND if factor * power >= least * (1 - 1e-9))


_LEVELS = 8


@dataclass(frozen=True)
class HeatMap:
    """A matrix of unit squares, those of one shade in one path, so that 400 x 400 cells need few elements.

    Attributes:
        described: alternative text.
        side: number of rows and columns.
        right: opacity and path of the diagonal.
        wrong: opacity and path of the other cells.
    """

    described: str
    side: int
    right: tuple[tuple[float, str], ...]
    wrong: tuple[tuple[float, str], ...]


def heat_map(counts: Sequence[Sequence[int]], described: str) -> HeatMap:
    """Draw the share of each count in its row; empty cells are left out."""
    paths: dict[bool, dict[int, list[str]]] = {True: defaultdict(list), False: defaultdict(list)}
    for row, values in enumerate(counts):
        total = sum(values)
        for column, count in enumerate(values):
            if count:
                level = max(1, round(_LEVELS * count / total))
                paths[row == column][level].append(f"M{column} {row}h1v1h-1z")
    right, wrong = (
        tuple((level / _LEVELS, "".join(paths[side][level])) for level in sorted(paths[side])) for side in (True, False)
    )
    return HeatMap(described, len(counts), right, wrong)


WIDTH, HEIGHT = 360, 216
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 12, 10, 36
_MOST_POINTS = 300
_MOST_DOTS = 40

Ink = Literal["first", "second", "faint"]


@dataclass(frozen=True)
class Line:
    """A series with its name and colour."""

    name: str
    points: tuple[Point, ...]
    ink: Ink


@dataclass(frozen=True)
class DrawnLine:
    """A line as the `points` attribute of SVG, with its dots if they are few."""

    name: str
    ink: Ink
    points: str
    dots: tuple[Point, ...]


@dataclass(frozen=True)
class LineChart:
    """A line chart; all positions are in its own units.

    Attributes:
        title: what it shows.
        described: the same for those who cannot see it.
        lines: to be drawn in this order.
        x_ticks: places and texts.
        y_ticks: places and texts.
        x_name: what the x axis counts.
        frame: left, top, right and bottom of the axes.
    """

    title: str
    described: str
    lines: tuple[DrawnLine, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    x_name: str
    frame: tuple[float, float, float, float]
    width: int = WIDTH
    height: int = HEIGHT


def line_chart(title: str, lines: Sequence[Line], x_name: str, *, shares: bool = False) -> LineChart | None:
    """Draw the lines that have points; None if none has.

    Args:
        title: what it shows.
        lines: the series, over `x_name` from 0.
        x_name: "epoch" or "step".
        shares: values are in [0, 1] and shown as per cent, on all of that range.
    """
    lines = [Line(line.name, subsample(line.points, _MOST_POINTS), line.ink) for line in lines if line.points]
    if not lines:
        return None
    frame = _LEFT, _TOP, WIDTH - _RIGHT, HEIGHT - _BOTTOM
    values = [y for line in lines for _, y in line.points]
    last = max(x for line in lines for x, _ in line.points)
    across = round_scale(0.0, last, frame[0], frame[2], about=5, grow=False)
    up = round_scale(*((0.0, 1.0) if shares else (min(0.0, *values), max(values))), frame[3], frame[1])
    up_labels = tuple(f"{tick:.0%}" for tick in up.ticks) if shares else labels(up.ticks)
    drawn = []
    for line in lines:
        places = tuple((across.place(x), up.place(y)) for x, y in line.points)
        # A line of one point would not be seen.
        few = len(places) <= (1 if line.ink == "faint" else _MOST_DOTS)
        drawn.append(DrawnLine(line.name, line.ink, " ".join(f"{x:g},{y:g}" for x, y in places), places if few else ()))
    return LineChart(
        title=title,
        described=_describe(title, lines, x_name, shares=shares),
        lines=tuple(drawn),
        x_ticks=tuple(zip(map(across.place, across.ticks), labels(across.ticks), strict=True)),
        y_ticks=tuple(zip(map(up.place, up.ticks), up_labels, strict=True)),
        x_name=x_name,
        frame=frame,
    )


def _describe(title: str, lines: Sequence[Line], x_name: str, *, shares: bool) -> str:
    def text(value: float) -> str:
        return percent(value) if shares else f"{value:.3g}"

    told = []
    for line in lines:
        ys = [y for _, y in line.points]
        low, high = min(ys), max(ys)
        told.append(f"{line.name}: from {text(ys[0])} to {text(ys[-1])}, lowest {text(low)}, highest {text(high)}")
    last = max(x for line in lines for x, _ in line.points)
    return f"{title} over {last:.3g} {x_name}s. " + ". ".join(told) + "."


Interval = tuple[float, float]

_Z_95 = 1.959963984540054
"""Standard normal quantile of a 95 % interval."""


def mean_interval(hits: Sequence[int], counts: Sequence[int]) -> Interval:
    """Return the 95 % interval of the mean over classes of their shares, within [0, 1].

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


WIDTH = 360
_LEFT, _RIGHT, _TOP, _BOTTOM, _ROW = 132, 20, 22, 26, 26


@dataclass(frozen=True)
class Whisker:
    """A row: its name, the positions of its value and interval, and its height in the chart."""

    name: str
    at: float
    low: float
    high: float
    y: float


@dataclass(frozen=True)
class WhiskerChart:
    """A chart of shares from 0 to 1 with intervals; all positions are in its own units.

    Attributes:
        described: alternative text.
        rows: from the top.
        ticks: places and texts of the axis.
        mark: place of the share that all rows are held against.
        mark_name: what that is.
        frame: left, top, right and bottom of the axes.
    """

    described: str
    rows: tuple[Whisker, ...]
    ticks: tuple[tuple[float, str], ...]
    mark: float
    mark_name: str
    frame: tuple[float, float, float, float]
    height: float
    width: int = WIDTH


def whisker_chart(title: str, rows: Sequence[tuple[str, float, Interval]], mark: float, mark_name: str) -> WhiskerChart:
    """Draw shares with their intervals.

    Args:
        title: what it shows.
        rows: name, share and interval of each, at least one.
        mark: a share to hold them against.
        mark_name: what that is.
    """
    frame = _LEFT, _TOP, WIDTH - _RIGHT, _TOP + _ROW * len(rows)
    across = round_scale(0.0, 1.0, frame[0], frame[2])
    told = ", ".join(
        f"{name} {percent(share)} ({percent(low)} to {percent(high)})" for name, share, (low, high) in rows
    )
    return WhiskerChart(
        described=f"{title}: {told}; {mark_name} {percent(mark)}.",
        rows=tuple(
            Whisker(name, across.place(share), across.place(low), across.place(high), frame[1] + (at + 0.5) * _ROW)
            for at, (name, share, (low, high)) in enumerate(rows)
        ),
        ticks=tuple((across.place(tick), f"{tick:.0%}") for tick in across.ticks),
        mark=across.place(mark),
        mark_name=mark_name,
        frame=frame,
        height=frame[3] + _BOTTOM,
    )
