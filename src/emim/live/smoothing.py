"""Smoothing of scores over time.

Shape suffix: K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor


class ScoreSmoother:
    """Exponential moving average of scores.

    A prediction that was left out makes the past count less, as if it had been made: after d seconds the past has the
    weight `weight ** (d / stride)`.

    Args:
        weight: of the past, in [0, 1), where predictions are `stride` apart; 0 does not smooth.
        stride: seconds between predictions where none is left out.
    """

    def __init__(self, weight: float, stride: float) -> None:
        if not 0 <= weight < 1:
            raise ValueError(f"the weight of the past must be at least 0 and below 1, got {weight}")
        if not stride > 0:
            raise ValueError(f"stride must be above 0, got {stride}")
        self._weight = weight
        self._stride = stride
        self._mean_K: Tensor | None = None
        self._time = 0.0

    def update(self, score_K: Tensor, time: float) -> Tensor:
        """The average after one more score_K; the first is the average itself.

        Args:
            score_K: scores.
            time: of them in seconds; never decreases between resets.

        Returns:
            mean_K: a new tensor; sums to what the scores sum to.
        """
        if self._mean_K is None or self._weight == 0:
            self._mean_K = score_K.clone()
        else:
            past = self._weight ** (max(time - self._time, 0.0) / self._stride)
            self._mean_K = torch.lerp(score_K, self._mean_K, past)
        self._time = time
        return self._mean_K.clone()

    def reset(self) -> None:
        """Forget the past."""
        self._mean_K = None
