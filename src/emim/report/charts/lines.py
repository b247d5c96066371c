"""Lines over epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from emim.report.charts.scale import labels, round_scale
from emim.report.history import Point, thinned
from emim.report.words import percent

WIDTH, HEIGHT = 360, 216
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 12, 10, 36
_MOST_POINTS = 300
_MOST_DOTS = 40

Ink = Literal["first", "second", "faint"]


@dataclass(frozen=True)
class Line:
    """A named series and how it is drawn."""

    name: str
    points: tuple[Point, ...]
    ink: Ink


@dataclass(frozen=True)
class DrawnLine:
    """The places of a line, as the attribute `points` of SVG wants them, and those of its dots, if they are few."""

    name: str
    ink: Ink
    points: str
    dots: tuple[Point, ...]


@dataclass(frozen=True)
class LineChart:
    """A chart of lines; all places are in its own units.

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
    """A chart of the lines that have points; None if none has.

    Args:
        title: what it shows.
        lines: the series, over `x_name` from 0.
        x_name: "epoch" or "step".
        shares: values are in [0, 1] and shown as per cent, on all of that range.
    """
    lines = [Line(line.name, thinned(line.points, _MOST_POINTS), line.ink) for line in lines if line.points]
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
