"""How far a displacement field is from the true one.

Shape suffixes: 2 axes (x, y), ... any leading axes, H and W pixels, h and w the grid of a field.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from emim.motion.drawing import resized

Floats = npt.NDArray[np.floating]


def end_point_error(displacement_2hw: Floats, truth_2HW: Floats, where_HW: npt.NDArray[np.bool_]) -> float:
    """Mean distance in pixels between the ends of estimated and true displacements (Baker et al., IJCV 2011).

    Args:
        displacement_2hw: the estimate in pixels of the truth, on any grid; read bilinearly.
        truth_2HW: the truth.
        where_HW: pixels that count.

    Returns:
        NaN where no pixel counts.
    """
    height, width = truth_2HW.shape[1:]
    apart_HW = np.hypot(*(np.stack([resized(axis_hw, height, width) for axis_hw in displacement_2hw]) - truth_2HW))
    return float(apart_HW[where_HW].mean()) if where_HW.any() else float("nan")
