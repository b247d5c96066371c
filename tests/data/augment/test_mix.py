"""Mixup and cutmix on batches of clips.

Shape legend: B clips, C channels, T frames, H height, W width, K classes.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from emim.data.augment.mix import Mixer, cut_box, smooth_one_hot
from emim.errors import ConfigError

BATCH, CLASSES = 4, 6


def batch() -> tuple[Tensor, Tensor]:
    """Clip b holds the value b everywhere, and its class is b."""
    label_B = torch.arange(BATCH)
    return label_B.view(BATCH, 1, 1, 1, 1).float().expand(BATCH, 3, 5, 12, 16).contiguous(), label_B


def test_targets_state_what_the_clips_hold() -> None:
    clip_BCTHW, label_B = batch()
    mixer = Mixer(num_classes=CLASSES, label_smoothing=0.0)
    rng = np.random.default_rng(0)
    boxes = blends = 0
    for _ in range(200):
        mixed, target_BK = mixer(clip_BCTHW, label_B, rng)
        torch.testing.assert_close(target_BK.sum(1), torch.ones(BATCH))
        # The clips' mean is the mixture of the class numbers, under mixup and cutmix alike.
        mean_B = target_BK @ torch.arange(CLASSES).float()
        torch.testing.assert_close(mixed.mean((1, 2, 3, 4)), mean_B, atol=1e-4, rtol=0)
        assert (mixed == mixed[:, :1, :1]).all()  # the same box in every frame and channel
        is_box = torch.equal(mixed, mixed.round())
        boxes += is_box
        blends += not is_box
    assert torch.equal(clip_BCTHW, batch()[0])
    assert abs(boxes - 100) < 5 * np.sqrt(50)
    assert blends == 200 - boxes


def test_partners_are_never_the_clip_itself() -> None:
    clip_BCTHW, label_B = batch()
    mixer = Mixer(cutmix_alpha=0.0, num_classes=CLASSES, label_smoothing=0.0)
    rng = np.random.default_rng(0)
    for _ in range(50):
        _, target_BK = mixer(clip_BCTHW, label_B, rng)
        assert ((target_BK > 0).sum(1) == 2).all()


def test_probability_and_switches() -> None:
    clip_BCTHW, label_B = batch()
    rng = np.random.default_rng(0)
    mixer = Mixer(prob=0.3, num_classes=CLASSES)
    mixed = sum(not torch.equal(mixer(clip_BCTHW, label_B, rng)[0], clip_BCTHW) for _ in range(500))
    # A cutmix box may be empty, so slightly fewer than 150 differ.
    assert 100 < mixed < 200
    off = Mixer(0.0, 0.0, num_classes=CLASSES)(clip_BCTHW, label_B, rng)
    assert torch.equal(off[0], clip_BCTHW)
    only_cutmix = Mixer(0.0, 1.0, switch_prob=0.0, num_classes=CLASSES)(clip_BCTHW, label_B, rng)[0]
    assert torch.equal(only_cutmix, only_cutmix.round())
    single = Mixer(num_classes=CLASSES)(clip_BCTHW[:1], label_B[:1], rng)
    assert torch.equal(single[0], clip_BCTHW[:1])


def test_the_generator_alone_decides() -> None:
    clip_BCTHW, label_B = batch()
    mixer = Mixer(num_classes=CLASSES)
    for seed in range(10):
        one = mixer(clip_BCTHW, label_B, np.random.default_rng(seed))
        other = mixer(clip_BCTHW, label_B, np.random.default_rng(seed))
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


def test_label_smoothing_by_hand() -> None:
    target_BK = smooth_one_hot(torch.tensor([1]), 4, 0.1)
    torch.testing.assert_close(target_BK, torch.tensor([[0.025, 0.925, 0.025, 0.025]]))


def test_boxes_lie_in_the_frame_and_have_the_asked_area_unless_clipped() -> None:
    rng = np.random.default_rng(0)
    unclipped = 0
    for _ in range(500):
        lam = float(rng.uniform())
        top, bottom, left, right = cut_box(100, 200, lam, rng)
        assert 0 <= top <= bottom <= 100
        assert 0 <= left <= right <= 200
        area = (bottom - top) * (right - left) / 20000
        assert area <= 1 - lam + 1e-9
        unclipped += area > 0.95 * (1 - lam)
    assert 0 < unclipped < 500


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match=r"prob must be in \[0, 1\], got 2"):
        Mixer(prob=2, num_classes=3)
    with pytest.raises(ConfigError, match="mixup_alpha must be at least 0"):
        Mixer(-1.0, num_classes=3)
    with pytest.raises(ConfigError, match="num_classes"):
        Mixer(num_classes=0)
