"""Pairs of classes that a network takes for each other when time runs backwards.

Shape suffixes: N clips, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST_SHARE = 0.25
"""Share of either class's clips that must go over to the other one."""
LEAST_CLIPS = 2
"""Clips of either class that must be named rightly as they are: of fewer, a share says nothing."""


@dataclass(frozen=True)
class Swap:
    """Two classes that change places under reversal.

    Attributes:
        classes: their indices, a < b.
        shares: of the clips of a that are named a as they are, the share named b when reversed; of those of b, the
            share named a.
        clips: how many clips of either class are named rightly as they are.
    """

    classes: tuple[int, int]
    shares: tuple[float, float]
    clips: tuple[int, int]


def find_swaps(
    label_N: NDArray[np.int64], as_is_N: NDArray[np.int64], reversed_N: NDArray[np.int64], num_classes: int
) -> tuple[Swap, ...]:
    """The pairs of which both shares are at least `LEAST_SHARE`, of at least `LEAST_CLIPS` clips.

    Args:
        label_N: class of each clip.
        as_is_N: what it was named as it is.
        reversed_N: what it was named with its frames reversed.
        num_classes: K.

    Returns:
        Those whose smaller share is largest first.
    """
    right_N = as_is_N == label_N
    went_KK = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(went_KK, (label_N[right_N], reversed_N[right_N]), 1)
    clips_K = went_KK.sum(1)
    share_KK = went_KK / np.maximum(clips_K, 1)[:, None]
    weaker_KK = np.minimum(share_KK, share_KK.T)
    enough_K = clips_K >= LEAST_CLIPS
    listed_KK = np.triu((weaker_KK >= LEAST_SHARE) & enough_K[:, None] & enough_K, k=1)
    swaps = [
        Swap((int(a), int(b)), (float(share_KK[a, b]), float(share_KK[b, a])), (int(clips_K[a]), int(clips_K[b])))
        for a, b in zip(*np.nonzero(listed_KK), strict=True)
    ]
    return tuple(sorted(swaps, key=lambda swap: (-min(swap.shares), -sum(swap.shares), swap.classes)))
