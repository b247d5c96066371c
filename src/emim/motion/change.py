"""Where the picture changes at all.

Shape suffixes: B clips, T frames, C colours, H and W pixels, h and w a token grid.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from emim.motion.field import MotionField

_NOISE, _CLEAR = 2.0, 6.0
"""Mean difference of a token's pixels, of 255: up to the first it may be noise, from the second on it is none."""


def faded_where_still(field: MotionField, pixels_BTCHW: Tensor) -> MotionField:
    """The field with no displacement where the picture does not change.

    Args:
        field: of clips.
        pixels_BTCHW: the clips' pixels from 0 to 255; those frames count that have tokens of their own.
    """
    steps, h, w = field.confidence_BTHW.shape[1:]
    every = pixels_BTCHW.shape[1] // steps
    change_BThw = picture_change(pixels_BTCHW[:, : every * steps : every], (h, w)).to(field.displacement_BT2HW.device)
    return replace(field, displacement_BT2HW=field.displacement_BT2HW * change_BThw[:, :, None])


def picture_change(frames_BTCHW: Tensor, grid: tuple[int, int]) -> Tensor:
    """Whether a place differs from itself in the next frame, from 0 (no more than noise does) to 1.

    Where nothing changes no motion can be seen, but a network normalises what it sees, and so may compare noise. A
    place counts with its neighbours, as the inside of a plain thing that moves does not change.

    Args:
        frames_BTCHW: pixels from 0 to 255, of any dtype.
        grid: h, w.

    Returns:
        change_BThw; the last frame repeats the one before it, and a single frame has no change.
    """
    B, T = frames_BTCHW.shape[:2]
    if T < 2:
        return torch.zeros(B, T, *grid, device=frames_BTCHW.device)
    difference_BTCHW = frames_BTCHW.float().diff(dim=1).abs()
    mean_BThw = F.adaptive_avg_pool2d(difference_BTCHW.mean(2), grid)
    change_BThw = ((mean_BThw - _NOISE) / (_CLEAR - _NOISE)).clamp(0, 1)
    change_BThw = F.max_pool2d(change_BThw, 3, stride=1, padding=1)
    return torch.cat((change_BThw, change_BThw[:, -1:]), dim=1)
