"""Bootstrap intervals of accuracies and of their differences, over clips that were tested in several conditions.

Shape suffixes: C conditions, N clips, R resamples, U different outcomes of a clip (right or wrong in each condition).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
_PERCENTILES = (2.5, 97.5)
# Keeps the resamples apart from other draws of the same seed.
_RESAMPLE_STREAM = 2

Interval = tuple[float, float]


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Accuracies:
    """Accuracy in each condition, and the difference of each to the first one."""

    accuracy: tuple[Estimate, ...]
    difference: tuple[Estimate, ...]


def bootstrap(right_CN: NDArray[np.bool_], seed: int = 0, resamples: int = RESAMPLES) -> Accuracies:
    """Percentile bootstrap over clips; a resample holds the same clips in all conditions, so differences are paired.

    Clips count as independent draws: clips of one film or person are alike, and the true uncertainty is then larger.
    Where a clip's outcome is the same for all clips, as where all are right, so it is in every resample, and the
    interval has no width.

    Args:
        right_CN: whether each clip was named rightly, in each condition; at least one clip.
        seed: at least 0. The order of the clips does not matter.
        resamples: R, at least 1.
    """
    # A resample is described by how often each outcome is drawn: the same as drawing clips, without R x N draws.
    outcomes_CU, counts_U = np.unique(right_CN, axis=1, return_counts=True)
    num_clips = int(counts_U.sum())
    rng = np.random.default_rng((seed, _RESAMPLE_STREAM))
    drawn_RU = rng.multinomial(num_clips, counts_U / num_clips, size=resamples)
    hits_RC = drawn_RU @ outcomes_CU.T.astype(np.int64)
    hits_C = outcomes_CU.astype(np.int64) @ counts_U
    return Accuracies(
        _estimates(hits_C, hits_RC, num_clips),
        _estimates(hits_C - hits_C[0], hits_RC - hits_RC[:, :1], num_clips),
    )


def _estimates(hits_C: NDArray[np.int64], hits_RC: NDArray[np.int64], num_clips: int) -> tuple[Estimate, ...]:
    bounds_C2 = np.percentile(hits_RC, _PERCENTILES, axis=0).T / num_clips
    return tuple(
        Estimate(int(hits) / num_clips, (float(low), float(high)))
        for hits, (low, high) in zip(hits_C, bounds_C2, strict=True)
    )


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
