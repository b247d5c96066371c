"""Suggestions for names that were mistyped."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """A clause for an error message: the nearest known name if one is close, else all of them.

    >>> nearest("densse", ["dense", "reference"])
    "did you mean 'dense'?"
    >>> nearest("x", ["dense", "reference"])
    'known: dense, reference'
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=cutoff)
    if close:
        return f"did you mean {close[0]!r}?"
    return "known: " + ", ".join(names)
