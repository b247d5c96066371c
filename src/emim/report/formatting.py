"""Format figures for reading."""

from __future__ import annotations

__all__ = ["count", "duration", "number", "percent", "points", "size"]


def percent(share: float | None) -> str:
    """Format a share as per cent with one decimal; a dash for None."""
    return "–" if share is None else f"{share:.1%}"


def points(difference: float) -> str:
    """Format a difference of shares in percentage points, with its sign."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def duration(seconds: float) -> str:
    """Format a duration: "42 s", "3 min 20 s", "5 h 3 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, rest = divmod(round(seconds / 60), 60)
    return f"{hours} h {rest} min"


def number(value: int) -> str:
    """Format a whole number in groups of three digits."""
    return f"{value:,}".replace(",", "\u202f")


def count(value: int, thing: str, things: str | None = None) -> str:
    """Format a number with its noun: "1 clip", "20 clips", "2 classes"."""
    return f"{number(value)} {thing if value == 1 else things or thing + 's'}"


def size(value: int) -> str:
    """Format a number of bytes."""
    return f"{value / 1e6:.1f} MB" if value >= 1e6 else f"{value / 1e3:.0f} kB"
