"""Preprocessing settings and test views.

Shape legend: V views (clips x crops), C channels, T frames, H height, W width.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from emim.data.augment.transforms import AugmentOptions, TrainTransform
from emim.data.preprocessing import Preprocessing, crop_start, fit_frames, views_from_frames
from emim.errors import ConfigError


def ramp(height: int, width: int, num_frames: int = 2) -> NDArray[np.uint8]:
    """Red grows with x, green with y, blue with t."""
    frames_THWC = np.zeros((num_frames, height, width, 3), dtype=np.uint8)
    frames_THWC[..., 0] = np.linspace(0, 255, width).round()
    frames_THWC[..., 1] = np.linspace(0, 255, height).round()[:, None]
    frames_THWC[..., 2] = np.arange(num_frames)[:, None, None] * 10
    return frames_THWC


def test_settings_survive_json_and_name_mistakes() -> None:
    pre = Preprocessing(num_frames=8, sampling="dense", fit="letterbox", mean=(0.1, 0.2, 0.3), clips=4)
    assert Preprocessing.from_dict(json.loads(json.dumps(pre.to_dict()))) == pre
    with pytest.raises(ConfigError, match=r"unknown key 'num_frame'.*'num_frames'"):
        Preprocessing.from_dict({"num_frame": 8})
    for wrong, message in (
        ({"size": 0}, "size must be a whole number"),
        ({"size": 22.4}, "size must be a whole number"),
        ({"sampling": "random"}, "sampling must be one of segment, dense, got 'random'"),
        ({"fit": "pad"}, "fit must be one of crop, letterbox, stretch"),
        ({"crops": 2}, "crops must be 1 or 3"),
        ({"std": [0.2, 0.2, 0.0]}, "std must be above 0"),
        ({"mean": [0.5]}, "mean must be 3 numbers"),
        ({"mean": 0.45}, "mean must be 3 numbers, got 0.45"),
        ({"std": ["a", "b", "c"]}, "std must be 3 numbers"),
    ):
        with pytest.raises(ConfigError, match=message):
            Preprocessing.from_dict(wrong)


@pytest.mark.parametrize(("height", "width"), [(20, 50), (50, 20)])
def test_three_crops_lie_along_the_long_side_clip_by_clip(height: int, width: int) -> None:
    pre = Preprocessing(num_frames=2, size=20, clips=2, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    frames_THWC = ramp(height, width, 4)
    views_VCTHW = views_from_frames(frames_THWC, np.array([[0, 2], [1, 3]]), pre)
    assert views_VCTHW.shape == (6, 3, 2, 20, 20)
    assert pre.num_views == 6
    for view, (clip, offset) in enumerate((clip, offset) for clip in ((0, 2), (1, 3)) for offset in (0, 15, 30)):
        top, left = (0, offset) if width > height else (offset, 0)
        expected_THWC = frames_THWC[list(clip), top : top + 20, left : left + 20] / 255
        np.testing.assert_allclose(views_VCTHW[view].numpy(), expected_THWC.transpose(3, 0, 1, 2), atol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "scaled", "starts"),
    [
        (256, 340, (224, 297), [(0, 0), (0, 37), (0, 73)]),  # 73 pixels to spare: half a pixel goes to the right
        (240, 320, (224, 298), [(0, 0), (0, 37), (0, 74)]),
        (1080, 1920, (224, 398), [(0, 0), (0, 87), (0, 174)]),
        (320, 240, (298, 224), [(0, 0), (37, 0), (74, 0)]),
        (100, 100, (224, 224), [(0, 0), (0, 0), (0, 0)]),
    ],
)
def test_the_published_crops_by_hand(
    height: int, width: int, scaled: tuple[int, int], starts: list[tuple[int, int]]
) -> None:
    frames_TCHW = fit_frames(torch.zeros(1, 3, height, width, dtype=torch.uint8), Preprocessing(size=224))
    assert frames_TCHW.shape[-2:] == scaled
    found = [tuple(crop_start(length, 224, place) for length in scaled) for place in range(3)]
    assert found == starts


def test_without_antialiasing_frames_are_sampled_as_published() -> None:
    frames_THWC = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    plain = {"size": 16, "crops": 1, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    view = views_from_frames(frames_THWC, np.array([[0]]), Preprocessing(**plain, antialias=False))[0, :, 0]
    frame_1CHW = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2).float() / 255
    expected = torch.nn.functional.interpolate(frame_1CHW, (16, 16), mode="bilinear", align_corners=False)[0]
    assert (view - expected).abs().max() < 1.01 / 255  # grey levels are whole
    averaged = views_from_frames(frames_THWC, np.array([[0]]), Preprocessing(**plain))[0, :, 0]
    assert averaged.std() < 0.7 * view.std()


def test_one_crop_is_the_middle_one_of_three() -> None:
    frames_THWC, position = ramp(37, 91), np.array([[0, 1]])
    one = views_from_frames(frames_THWC, position, Preprocessing(size=24, crops=1))
    three = views_from_frames(frames_THWC, position, Preprocessing(size=24, crops=3))
    assert torch.equal(one[0], three[1])


def test_the_short_side_fills_the_crop() -> None:
    # The ramp over the short side must run through the whole crop, from dark to bright.
    pre = Preprocessing(size=32, crops=1, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    view_CTHW = views_from_frames(ramp(64, 100), np.array([[0, 1]]), pre)[0]
    assert float(view_CTHW[1, 0, 0].mean()) < 0.02
    assert float(view_CTHW[1, 0, -1].mean()) > 0.98
    assert 0.15 < float(view_CTHW[0, 0, :, 0].mean()) < 0.21  # (100 - 64) / 2 pixels of 100 are cut off


def test_small_frames_are_scaled_up() -> None:
    views_VCTHW = views_from_frames(ramp(10, 13), np.array([[0, 1]]), Preprocessing(size=32))
    assert views_VCTHW.shape == (3, 3, 2, 32, 32)
    assert views_VCTHW.isfinite().all()


@pytest.mark.parametrize(("height", "width"), [(30, 60), (60, 30), (8, 100)])
def test_letterbox_shows_the_whole_frame_on_the_mean(height: int, width: int) -> None:
    pre = Preprocessing(size=40, fit="letterbox")
    frames_THWC = np.full((2, height, width, 3), 255, dtype=np.uint8)
    views_VCTHW = views_from_frames(frames_THWC, np.array([[0, 1]]), pre)
    assert views_VCTHW.shape == (1, 3, 2, 40, 40)
    bright = (1 - 0.45) / 0.225
    values = views_VCTHW.unique()
    torch.testing.assert_close(values, torch.tensor([0.0, bright]))
    shown = int((views_VCTHW[0, 0, 0] != 0).sum())
    assert shown == round(40 * height / max(height, width)) * round(40 * width / max(height, width))


def test_stretch_scales_both_sides() -> None:
    pre = Preprocessing(size=32, fit="stretch", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    view_CTHW = views_from_frames(ramp(64, 128), np.array([[0, 1]]), pre)[0]
    assert float(view_CTHW[0, 0, :, 0].mean()) < 0.03
    assert float(view_CTHW[0, 0, :, -1].mean()) > 0.97
    assert float(view_CTHW[1, 0, -1].mean()) > 0.97


def test_training_may_use_another_size() -> None:
    assert Preprocessing(size=96).training_size == 96
    pre = Preprocessing(size=96, train_size=64)
    frames_THWC = np.zeros((pre.num_frames, 70, 90, 3), dtype=np.uint8)
    clip_CTHW, _ = TrainTransform(AugmentOptions(), pre, ("a", "b"))(frames_THWC, 0, np.random.default_rng(0))
    assert clip_CTHW.shape[-2:] == (64, 64)
    assert Preprocessing.from_dict(pre.to_dict()) == pre
    with pytest.raises(ConfigError, match="train_size must be a whole number"):
        Preprocessing(train_size=0)
