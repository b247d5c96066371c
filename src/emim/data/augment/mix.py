"""Mixup and cutmix on batches of clips, with soft targets.

Shape legend: B clips, C channels, T frames, H height, W width, K classes.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from emim.errors import ConfigError

__all__ = ["Mixer", "cut_box", "smooth_one_hot"]


class Mixer:
    """Blend every clip of a batch with another one, by mixup or cutmix; one draw per batch.

    Mixup adds the clips with weights lambda and 1 - lambda; cutmix pastes a box of the other clip, the same
    in every frame, and lambda is then the share of the frame that is left, after clipping the box to it. The
    target is the blend of the two smoothed one-hot targets. Partners are `shift` places along in the batch,
    shift random, so no clip is blended with itself.

    Args:
        mixup_alpha: lambda is Beta(alpha, alpha); 0 turns mixup off.
        cutmix_alpha: as above, for the area left by the box before clipping; 0 turns cutmix off.
        switch_prob: probability of cutmix where both are on.
        prob: probability that a batch is mixed at all.
        num_classes: K.
        label_smoothing: share of the target that is spread over all classes.

    Raises:
        ConfigError: a value is out of range.
    """

    def __init__(
        self,
        mixup_alpha: float = 0.8,
        cutmix_alpha: float = 1.0,
        switch_prob: float = 0.5,
        prob: float = 1.0,
        *,
        num_classes: int,
        label_smoothing: float = 0.1,
    ) -> None:
        for name, value in (
            ("switch_prob", switch_prob),
            ("prob", prob),
            ("label_smoothing", label_smoothing),
        ):
            if not 0 <= value <= 1:
                raise ConfigError(f"mix: {name} must be in [0, 1], got {value}")
        for name, value in (("mixup_alpha", mixup_alpha), ("cutmix_alpha", cutmix_alpha)):
            if not 0 <= value < math.inf:
                raise ConfigError(f"mix: {name} must be at least 0, got {value}")
        if num_classes < 1:
            raise ConfigError(f"mix: num_classes must be at least 1, got {num_classes}")
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha
        self.switch_prob = switch_prob
        self.prob = prob
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing

    def __call__(self, clip_BCTHW: Tensor, label_B: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Mix a batch; the input is left as it is.

        Args:
            clip_BCTHW: clips, floating point, on any device.
            label_B: class indices.
            rng: source of all draws.

        Returns:
            The mixed clips, and target_BK: float32, each row sums to 1. A batch of one is not mixed.
        """
        target_BK = smooth_one_hot(label_B, self.num_classes, self.label_smoothing)
        batch, _, _, height, width = clip_BCTHW.shape
        off = self.mixup_alpha == 0 and self.cutmix_alpha == 0
        if off or batch < 2 or rng.random() >= self.prob:
            return clip_BCTHW, target_BK

        shift = int(rng.integers(1, batch))
        other_BCTHW = clip_BCTHW.roll(shift, 0)
        use_cutmix = self.mixup_alpha == 0 or (self.cutmix_alpha > 0 and rng.random() < self.switch_prob)
        alpha = self.cutmix_alpha if use_cutmix else self.mixup_alpha
        lam = float(rng.beta(alpha, alpha))
        if use_cutmix:
            top, bottom, left, right = cut_box(height, width, lam, rng)
            mixed_BCTHW = clip_BCTHW.clone()
            mixed_BCTHW[..., top:bottom, left:right] = other_BCTHW[..., top:bottom, left:right]
            lam = 1 - (bottom - top) * (right - left) / (height * width)
        else:
            mixed_BCTHW = other_BCTHW.mul_(1 - lam).add_(clip_BCTHW, alpha=lam)
        return mixed_BCTHW, lam * target_BK + (1 - lam) * target_BK.roll(shift, 0)


def smooth_one_hot(label_B: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """target_BK: smoothing / K everywhere, and 1 - smoothing more at the label."""
    target_BK = torch.full((len(label_B), num_classes), smoothing / num_classes, device=label_B.device)
    return target_BK.scatter_(1, label_B[:, None], 1 - smoothing + smoothing / num_classes)


def cut_box(height: int, width: int, lam: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of a box of area share 1 - lam and the frame's aspect, clipped to it.

    The centre is uniform over the frame.
    """
    side = math.sqrt(1 - lam)
    box_height, box_width = int(height * side), int(width * side)
    y, x = int(rng.integers(height)), int(rng.integers(width))
    top, left = y - box_height // 2, x - box_width // 2
    return max(top, 0), min(top + box_height, height), max(left, 0), min(left + box_width, width)
