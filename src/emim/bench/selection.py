"""Which candidates of a benchmark were asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from emim.errors import UnknownNameError
from emim.utils import nearest


def select(wanted: Sequence[str] | None, known: Iterable[str], always: Sequence[str] = ()) -> list[str]:
    """Names in the order in which they are known.

    Args:
        wanted: names; None for all.
        known: all there are.
        always: those that the others are compared with, taken whether wanted or not.

    Raises:
        UnknownNameError: no such candidate.
    """
    names = list(known)
    for name in wanted or ():
        if name not in names:
            raise UnknownNameError(f"no candidate {name!r}; {nearest(name, names)}")
    return [name for name in names if wanted is None or name in wanted or name in always]
