"""Figures with their intervals, one below the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emim.report.charts.scale import round_scale
from emim.report.intervals import Interval
from emim.report.words import percent

WIDTH = 360
_LEFT, _RIGHT, _TOP, _BOTTOM, _ROW = 132, 20, 22, 26, 26


@dataclass(frozen=True)
class Whisker:
    """A row: its name, where its figure and the ends of its interval lie, and its height in the chart."""

    name: str
    at: float
    low: float
    high: float
    y: float


@dataclass(frozen=True)
class WhiskerChart:
    """Shares from 0 to 1 with intervals; all places are in the chart's own units.

    Attributes:
        described: for those who cannot see it.
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
    """A chart of shares.

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
