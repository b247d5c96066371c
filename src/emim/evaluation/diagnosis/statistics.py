"""Statistics of a diagnosis: bootstrap intervals of accuracies and their differences, and pairs of swapped classes.

Shape suffixes: S clips, A ablations, R resamples, U different outcomes of a clip (right or wrong under each ablation),
K classes, 2 lower and upper bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LEAST_CLIPS",
    "LEAST_SHARE",
    "RESAMPLES",
    "Accuracies",
    "Estimate",
    "Interval",
    "Swap",
    "bootstrap",
    "find_swaps",
]

RESAMPLES = 2000
"""Default number of resamples."""
_PERCENTILES = (2.5, 97.5)
# Keeps the resamples apart from other draws of the same seed.
_RESAMPLE_STREAM = 2

Interval = tuple[float, float]


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Accuracies:
    """Accuracy under each ablation, and its difference to the first one."""

    accuracy: tuple[Estimate, ...]
    difference: tuple[Estimate, ...]


def bootstrap(right_AS: NDArray[np.bool_], seed: int = 0, resamples: int = RESAMPLES) -> Accuracies:
    """Percentile bootstrap over clips; a resample holds the same clips for all ablations, so differences are paired.

    It assumes independent clips: clips of one film or person are alike, and the true uncertainty is then larger. If
    the outcome is the same for all clips, as where all are right, it is the same in every resample, and the interval
    has no width.

    Args:
        right_AS: true where a clip's predicted class is right, for each ablation; at least one clip.
        seed: at least 0. The order of the clips does not matter.
        resamples: R, at least 1.
    """
    # A resample is described by how often each outcome is drawn: the same as drawing clips, without R x N draws.
    outcomes_AU, counts_U = np.unique(right_AS, axis=1, return_counts=True)
    num_clips = int(counts_U.sum())
    rng = np.random.default_rng((seed, _RESAMPLE_STREAM))
    drawn_RU = rng.multinomial(num_clips, counts_U / num_clips, size=resamples)
    hits_RA = drawn_RU @ outcomes_AU.T.astype(np.int64)
    hits_A = outcomes_AU.astype(np.int64) @ counts_U
    return Accuracies(
        _estimates(hits_A, hits_RA, num_clips),
        _estimates(hits_A - hits_A[0], hits_RA - hits_RA[:, :1], num_clips),
    )


def _estimates(hits_A: NDArray[np.int64], hits_RA: NDArray[np.int64], num_clips: int) -> tuple[Estimate, ...]:
    bounds_A2 = np.percentile(hits_RA, _PERCENTILES, axis=0).T / num_clips
    return tuple(
        Estimate(int(hits) / num_clips, (float(low), float(high)))
        for hits, (low, high) in zip(hits_A, bounds_A2, strict=True)
    )


LEAST_SHARE = 0.25
"""Least share of the clips of each class that must be predicted as the other class."""
LEAST_CLIPS = 2
"""Least number of clips of each class that must be right unchanged: a share of fewer means nothing."""


@dataclass(frozen=True)
class Swap:
    """Two classes that are exchanged under reversal.

    Attributes:
        classes: their indices, a < b.
        shares: of the clips of a that are predicted as a unchanged, the share predicted as b when reversed; of those
            of b, the share predicted as a.
        clips: clips of each class whose predicted class is right unchanged.
    """

    classes: tuple[int, int]
    shares: tuple[float, float]
    clips: tuple[int, int]


def find_swaps(
    label_S: NDArray[np.int64], as_is_S: NDArray[np.int64], reversed_S: NDArray[np.int64], num_classes: int
) -> tuple[Swap, ...]:
    """Find the pairs of classes whose shares are both at least `LEAST_SHARE`, of at least `LEAST_CLIPS` clips.

    Args:
        label_S: class of each clip.
        as_is_S: its predicted class unchanged.
        reversed_S: its predicted class with the frames reversed.
        num_classes: K.

    Returns:
        The pairs, in descending order of their smaller share.
    """
    right_S = as_is_S == label_S
    went_KK = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(went_KK, (label_S[right_S], reversed_S[right_S]), 1)
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
