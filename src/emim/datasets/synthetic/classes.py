"""Size, length and make-up of the clips to draw."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from emim.errors import ConfigError, UnknownNameError

__all__ = ["CLASSES", "MOTIONS", "ClipOptions", "Dimension", "Motion", "motion_of"]


class Dimension(IntEnum):
    """State dimensions of the objects, in the order of the columns of a path."""

    HORIZONTAL = 0
    VERTICAL = 1
    SCALE = 2
    ANGLE = 3
    SEPARATION = 4


class Motion(NamedTuple):
    """The motion of a class.

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


_SMALLEST_SIDE = 32


@dataclass(frozen=True)
class ClipOptions:
    """Options of the clips; the same for all classes.

    Attributes:
        num_frames: frames per clip, at least 2.
        height: frame height in pixels, even, at least 32.
        width: frame width in pixels, even, at least 32.
        fps: frames per second written into the file; None draws one of 15, 20, 24, 25, 30 per clip.
        solo_share: share of the clips of the single-motion classes (all but `approaching` and `parting`)
            that show one object. At 0 every clip of every class has two objects. Above 0 a frame with one
            object rules the two pair classes out, so single frames are no longer free of class information.
        upright_share: share of the clips whose objects start upright. In such a clip a tilted object tells
            that it rotates, so here too any value above 0 lets single frames carry information.
        clear_share: share of the clips, whatever their class, with large objects, long paths and a camera at
            rest. A network learns to see motion from these in far fewer steps than from the others.
        vary: draw 12 to 48 frames, an aspect ratio between 1:2 and 2:1, and a short side of 0.85 to 1.3
            times that of the given size for each clip, whatever its class.
    """

    num_frames: int = 16
    height: int = 112
    width: int = 112
    fps: int | None = None
    solo_share: float = 0.0
    upright_share: float = 0.0
    clear_share: float = 0.0
    vary: bool = False

    def __post_init__(self) -> None:
        if self.num_frames < 2:
            raise ConfigError(f"num_frames={self.num_frames}: motion needs at least 2 frames")
        for name in ("height", "width"):
            value = getattr(self, name)
            if value < _SMALLEST_SIDE or value % 2:
                raise ConfigError(f"{name}={value}: give an even number of pixels, at least {_SMALLEST_SIDE}")
        if self.fps is not None and self.fps < 1:
            raise ConfigError(f"fps={self.fps}: give a whole number above 0, or None to draw it")
        for name in ("solo_share", "upright_share", "clear_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name}={getattr(self, name)}: a share lies between 0 and 1")

    def draw(self, rng: np.random.Generator) -> ClipOptions:
        """Draw the random options: frame rate, and with `vary` the frame count and size."""
        fps = self.fps if self.fps is not None else int(rng.choice((15, 20, 24, 25, 30)))
        if not self.vary:
            return replace(self, fps=fps)
        short = min(self.height, self.width) * rng.uniform(0.85, 1.3)
        # Half of the clips have a common camera shape, the others any.
        aspect = float(rng.choice((1.0, 4 / 3, 16 / 9))) if rng.random() < 0.5 else rng.uniform(1.0, 2.0)
        sides = [_even(short), _even(short * aspect)]
        if rng.random() < 0.3:  # portrait
            sides.reverse()
        frames = int(rng.integers(12, 49))
        return replace(self, fps=fps, num_frames=frames, height=sides[0], width=sides[1], vary=False)


def _even(length: float) -> int:
    return max(_SMALLEST_SIDE, 2 * round(length / 2))
