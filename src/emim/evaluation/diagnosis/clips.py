"""Interventions on clips: the same frames in another order, or one of them alone.

Shape suffixes: V views of a video, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Keeps the orders of frames apart from other draws of the same seed.
_ORDER_STREAM = 1


def freeze(views_VCTHW: Tensor) -> Tensor:
    """Every view as its own middle frame (number T // 2, from 0), held for its whole length."""
    middle = views_VCTHW.shape[2] // 2
    return views_VCTHW[:, :, middle : middle + 1].expand_as(views_VCTHW)


def reverse(views_VCTHW: Tensor) -> Tensor:
    """The frames from the last to the first."""
    return views_VCTHW.flip(2)


def shuffle(views_VCTHW: Tensor, clip: int, seed: int) -> Tensor:
    """The frames in the clip's `shuffled_order`, the same in all its views."""
    return views_VCTHW[:, :, shuffled_order(views_VCTHW.shape[2], clip, seed)]


def shuffled_order(num_frames: int, clip: int, seed: int) -> Tensor:
    """A random order of frames, drawn evenly from all but the one that they have.

    Args:
        num_frames: frames T, at least 1; a single frame has no other order.
        clip: position of the clip in its list.
        seed: at least 0; with `clip` it fixes the order.

    Returns:
        order_T: int64 permutation of 0 to T - 1.
    """
    rng = np.random.default_rng((seed, clip, _ORDER_STREAM))
    order_T = rng.permutation(num_frames)
    while num_frames > 1 and (order_T == np.arange(num_frames)).all():
        order_T = rng.permutation(num_frames)
    return torch.from_numpy(order_T)
