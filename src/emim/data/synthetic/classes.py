"""The eleven motion classes: which state dimension of the objects moves, and which way."""

from __future__ import annotations

import difflib
from enum import IntEnum
from typing import NamedTuple

from emim.errors import UnknownNameError


class Dimension(IntEnum):
    """State dimensions of the objects, in the order of the columns of a path."""

    HORIZONTAL = 0
    VERTICAL = 1
    SCALE = 2
    ANGLE = 3
    SEPARATION = 4


class Motion(NamedTuple):
    """What moves in a class.

    Attributes:
        dimension: the one state dimension that changes; None when nothing does.
        sign: +1 when it grows over the clip, -1 when it falls. Image axes: x to the right, y down, so
            "down" and "clockwise" (as the viewer sees it) are positive.
    """

    dimension: Dimension | None
    sign: int


MOTIONS: dict[str, Motion] = {
    "approaching": Motion(Dimension.SEPARATION, -1),
    "away": Motion(Dimension.SCALE, -1),
    "clockwise": Motion(Dimension.ANGLE, +1),
    "counterclockwise": Motion(Dimension.ANGLE, -1),
    "down": Motion(Dimension.VERTICAL, +1),
    "left": Motion(Dimension.HORIZONTAL, -1),
    "parting": Motion(Dimension.SEPARATION, +1),
    "right": Motion(Dimension.HORIZONTAL, +1),
    "still": Motion(None, 0),
    "towards": Motion(Dimension.SCALE, +1),
    "up": Motion(Dimension.VERTICAL, -1),
}

#: The class names, sorted as a folder of classes would list them.
CLASSES: tuple[str, ...] = tuple(sorted(MOTIONS))


def motion_of(label: str) -> Motion:
    """The motion of a class.

    Raises:
        UnknownNameError: there is no such class.
    """
    try:
        return MOTIONS[label]
    except KeyError:
        nearest = difflib.get_close_matches(label, CLASSES, n=1, cutoff=0.0)[0]
        raise UnknownNameError(
            f"unknown motion class {label!r}; did you mean {nearest!r}? Classes: {', '.join(CLASSES)}"
        ) from None
