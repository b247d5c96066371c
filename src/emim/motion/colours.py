"""Displacements as colours: hue is the direction, saturation the length (Baker et al., "A Database and Evaluation
Methodology for Optical Flow", IJCV 2011, the Middlebury convention).

Shape suffixes: 2 axes (x to the right, y down), H and W any grid, C the three colours red, green, blue, K hues.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Image = npt.NDArray[np.uint8]

# Steps from one pure colour to the next. There are more of them where people tell hues apart better.
_STEPS = (("red", 15), ("yellow", 6), ("green", 4), ("cyan", 11), ("blue", 13), ("magenta", 6))
_PURE = {
    "red": (1, 0, 0),
    "yellow": (1, 1, 0),
    "green": (0, 1, 0),
    "cyan": (0, 1, 1),
    "blue": (0, 0, 1),
    "magenta": (1, 0, 1),
}
_TOO_LONG = 0.75
"""Darkening of what is longer than the largest length."""


def _hues() -> Floats:
    """The wheel, hue_KC in [0, 1]; the first is pure red."""
    parts = []
    for index, (name, steps) in enumerate(_STEPS):
        start_C = np.array(_PURE[name], dtype=np.float64)
        end_C = np.array(_PURE[_STEPS[(index + 1) % len(_STEPS)][0]], dtype=np.float64)
        parts.append(start_C + (end_C - start_C) * np.arange(steps)[:, None] / steps)
    return np.concatenate(parts)


_HUE_KC = _hues()


def flow_colours(displacement_2HW: Floats, largest: float) -> Image:
    """Colours of displacements.

    Args:
        displacement_2HW: in any unit.
        largest: length that has the full colour, in the same unit; shorter ones are paler, none is white, longer ones
            are darkened.

    Returns:
        image_HWC, uint8 RGB.

    Raises:
        ValueError: `largest` is not above 0.
    """
    if not largest > 0:
        raise ValueError(f"largest must be above 0, got {largest}")
    x_HW, y_HW = np.asarray(displacement_2HW, dtype=np.float64) / largest
    length_HW = np.hypot(x_HW, y_HW)
    # From -1 to 1: the wheel begins with the direction to the left, half a turn from red at the right.
    turn_HW = np.arctan2(-y_HW, -x_HW) / np.pi
    place_HW = (turn_HW + 1) / 2 * (len(_HUE_KC) - 1)
    low_HW = np.floor(place_HW).astype(np.int64)
    share_HW1 = (place_HW - low_HW)[..., None]
    colour_HWC = (1 - share_HW1) * _HUE_KC[low_HW] + share_HW1 * _HUE_KC[(low_HW + 1) % len(_HUE_KC)]
    short_HW1 = (length_HW <= 1)[..., None]
    colour_HWC = np.where(short_HW1, 1 - length_HW[..., None] * (1 - colour_HWC), _TOO_LONG * colour_HWC)
    return np.asarray(np.floor(255 * colour_HWC), dtype=np.uint8)


def wheel(side: int) -> tuple[Image, npt.NDArray[np.bool_]]:
    """The legend: a disc of `side` pixels whose every point has the colour of the displacement from the centre to it.

    Returns:
        image_HWC and disc_HW, which is true within the disc.
    """
    step_S = (np.arange(side) + 0.5) / side * 2 - 1
    displacement_2SS = np.stack(np.broadcast_arrays(step_S[None, :], step_S[:, None]))
    return flow_colours(displacement_2SS, 1.0), np.hypot(*displacement_2SS) <= 1
