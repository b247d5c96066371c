"""Training transforms: one draw for all frames, the advertised distributions, and labels that follow.

Shape legend: C channels, T frames, H height, W width.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from emim.data.augment.transforms import (
    AugmentOptions,
    ColorJitter,
    GaussianNoise,
    HorizontalFlip,
    LetterboxCrop,
    RandomErasing,
    RandomResizedCrop,
    RandomRotation,
    StretchCrop,
    TimeReverse,
    TrainTransform,
    reduced,
    resolve_label_map,
)
from emim.data.preprocessing import Fit, Preprocessing
from emim.errors import ConfigError

FITS: tuple[Fit, ...] = ("crop", "letterbox", "stretch")
EVERYTHING = AugmentOptions(
    randaugment="rand-m7-n4-mstd0.5-inc1",
    flip=0.5,
    reverse=0.5,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    grayscale=0.2,
    invert=0.2,
    rotation=10,
    erasing=0.5,
)
WHOLE = AugmentOptions(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))


def texture(height: int = 60, width: int = 80, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def still(num_frames: int = 4, height: int = 60, width: int = 80) -> NDArray[np.uint8]:
    return np.repeat(texture(height, width)[None], num_frames, 0)


def ks_distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Kolmogorov-Smirnov distance of two samples, scaled: above 1.95 once in a thousand where they are of one kind."""
    values = np.sort(np.concatenate([one, other]))
    shares = [np.searchsorted(np.sort(sample), values, side="right") / len(sample) for sample in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max() * math.sqrt(len(one) * len(other) / (len(one) + len(other))))


def boxes_that_fit(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Area share and log aspect (width / height) as defined: uniform draws of which those are kept that fit."""
    rng = np.random.default_rng(1)
    area = rng.uniform(*scale, 40000)
    aspect = rng.uniform(math.log(ratio[0]), math.log(ratio[1]), 40000)
    side = np.sqrt(area * height * width)
    fits = (np.round(side * np.exp(aspect / 2)) <= width) & (np.round(side * np.exp(-aspect / 2)) <= height)
    return area[fits], aspect[fits]


@pytest.mark.parametrize("fit", FITS)
def test_a_still_clip_stays_still_under_all_transforms(fit: Fit) -> None:
    transform = TrainTransform(EVERYTHING, Preprocessing(size=32, fit=fit))
    seen = set()
    for seed in range(60):
        clip_CTHW, _ = transform(still(), 0, np.random.default_rng(seed))
        assert clip_CTHW.shape == (3, 4, 32, 32)
        assert clip_CTHW.dtype == torch.float32
        assert clip_CTHW.is_contiguous()
        assert clip_CTHW.isfinite().all()
        assert (clip_CTHW == clip_CTHW[:, :1]).all()
        seen.add(float(clip_CTHW.sum()))
    assert len(seen) == 60  # each seed another clip


@pytest.mark.parametrize("fit", FITS)
def test_the_generator_alone_decides(fit: Fit) -> None:
    transform = TrainTransform(EVERYTHING, Preprocessing(size=32, fit=fit))
    frames_THWC = still()
    before = frames_THWC.copy()
    one, _ = transform(frames_THWC, 0, np.random.default_rng(7))
    other, _ = transform(frames_THWC, 0, np.random.default_rng(7))
    assert torch.equal(one, other)
    assert (frames_THWC == before).all()


def test_without_augmentation_the_clip_is_only_normalised() -> None:
    pre = Preprocessing(size=40, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    frames_THWC = np.stack([texture(40, 40, seed) for seed in range(3)])
    clip_CTHW, label = TrainTransform(WHOLE, pre)(frames_THWC, 5, np.random.default_rng(0))
    expected_THWC = (frames_THWC / 255 - np.array(pre.mean)) / np.array(pre.std)
    np.testing.assert_allclose(clip_CTHW.numpy(), expected_THWC.transpose(3, 0, 1, 2), atol=1e-5)
    assert label == 5


def test_crop_area_and_aspect_follow_their_ranges() -> None:
    crop = RandomResizedCrop(32, (0.1, 0.4), (0.5, 2.0))
    rng = np.random.default_rng(0)
    boxes = [crop.box(400, 400, rng) for _ in range(4000)]
    areas = np.array([box.height * box.width / 160000 for box in boxes])
    aspects = np.array([math.log(box.width / box.height) for box in boxes])
    assert areas.min() > 0.099
    assert areas.max() < 0.401
    # Uniform: mean 0.25, and a quarter in each quarter of the range. Every box fits, so none is rejected.
    assert abs(areas.mean() - 0.25) < 5 * 0.3 / math.sqrt(12 * 4000)
    quarters = np.histogram(areas, bins=np.linspace(0.1, 0.4, 5))[0]
    assert np.abs(quarters - 1000).max() < 5 * math.sqrt(750)
    assert abs(aspects.mean()) < 5 * 2 * math.log(2) / math.sqrt(12 * 4000)
    assert all(box.top + box.height <= 400 and box.left + box.width <= 400 for box in boxes)
    centre = np.mean([box.left + box.width / 2 for box in boxes])
    assert abs(centre - 200) < 10


def test_published_crops_of_a_video_frame() -> None:
    rng = np.random.default_rng(0)
    boxes = [RandomResizedCrop(224).box(256, 340, rng) for _ in range(6000)]
    height, width = np.array([box.height for box in boxes]), np.array([box.width for box in boxes])
    area, aspect = boxes_that_fit(256, 340, (0.08, 1.0), (0.75, 1.3333))
    assert ks_distance(height * width / (256 * 340), area) < 1.95
    assert ks_distance(np.log(width / height), aspect) < 1.95
    # Places are uniform over what is free.
    for free, start in ((256 - height, [box.top for box in boxes]), (340 - width, [box.left for box in boxes])):
        place = (np.array(start) + rng.random(len(boxes))) / (free + 1)
        assert ks_distance(place, rng.random(40000)) < 1.95


@pytest.mark.parametrize("kind", [RandomResizedCrop, StretchCrop, LetterboxCrop])
def test_crops_without_antialiasing_are_bilinear_samples(kind: type[RandomResizedCrop]) -> None:
    frames_THWC = still(2, 64, 64)
    sampled = kind(16, (1.0, 1.0), (1.0, 1.0), antialias=False)(frames_THWC, np.random.default_rng(0)).frames
    # A quarter of the size: each sample lies in the middle of four pixels, of the sixteen it stands for.
    middle_THWC = sum(frames_THWC[:, y::4, x::4].astype(float) for y in (1, 2) for x in (1, 2)) / 4
    assert np.abs(sampled.permute(0, 2, 3, 1).numpy() - middle_THWC).max() <= 1
    averaged = kind(16, (1.0, 1.0), (1.0, 1.0))(frames_THWC, np.random.default_rng(0)).frames
    assert averaged.float().std() < 0.7 * sampled.float().std()


@pytest.mark.parametrize(("height", "width", "small"), [(96, 128, (60, 80)), (128, 96, (80, 60)), (60, 80, (60, 80))])
def test_large_frames_are_reduced_first(height: int, width: int, small: tuple[int, int]) -> None:
    frames_THWC = still(2, height, width)
    frames = reduced(frames_THWC, 60)
    assert frames.shape == (2, *small, 3)
    assert abs(float(frames.mean()) - float(frames_THWC.mean())) < 1
    assert reduced(frames_THWC, None) is frames_THWC
    pre, rng = Preprocessing(size=16), np.random.default_rng
    clip, _ = TrainTransform(AugmentOptions(reduce_to=60), pre)(frames_THWC, 0, rng(1))
    again, _ = TrainTransform(AugmentOptions(), pre)(frames, 0, rng(1))
    assert torch.equal(clip, again)


def test_crop_falls_back_to_the_centre() -> None:
    # No box of the whole area has an aspect near 1 in a 20 x 200 frame.
    box = RandomResizedCrop(32, (1.0, 1.0), (0.75, 4 / 3)).box(20, 200, np.random.default_rng(0))
    assert (box.top, box.height, box.width) == (0, 20, 27)
    assert box.left == (200 - 27) // 2
    box = RandomResizedCrop(32, (1.0, 1.0), (0.75, 4 / 3)).box(200, 20, np.random.default_rng(0))
    assert (box.left, box.width, box.height) == (0, 20, 27)


def test_a_crop_is_the_resized_region() -> None:
    frames_THWC = still(2)
    crop = RandomResizedCrop(16, (0.3, 0.3), (1.0, 1.0))
    placed = crop(frames_THWC, np.random.default_rng(3))
    box = crop.box(60, 80, np.random.default_rng(3))
    region = frames_THWC[:, box.top : box.top + box.height, box.left : box.left + box.width]
    region_TCHW = torch.from_numpy(region.copy()).permute(0, 3, 1, 2).float()
    expected = torch.nn.functional.interpolate(region_TCHW, (16, 16), mode="bilinear", antialias=True)
    assert (placed.frames.float() - expected).abs().max() <= 1.0  # uint8 arithmetic rounds


@pytest.mark.parametrize(("height", "width"), [(60, 80), (80, 60), (20, 160)])
def test_letterbox_keeps_aspect_and_leaves_the_border_at_the_mean(height: int, width: int) -> None:
    pre = Preprocessing(size=32, fit="letterbox")
    frames_THWC = np.full((2, height, width, 3), 255, dtype=np.uint8)
    options = AugmentOptions(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), brightness=0.9, contrast=0.9)
    clip_CTHW, _ = TrainTransform(options, pre)(frames_THWC, 0, np.random.default_rng(0))
    shown = clip_CTHW[0, 0] != 0
    assert int(shown.any(1).sum()) == round(32 * height / max(height, width))
    assert int(shown.any(0).sum()) == round(32 * width / max(height, width))
    rows, columns = torch.where(shown)
    assert abs(int(rows.min() + rows.max()) - 31) <= 1
    assert abs(int(columns.min() + columns.max()) - 31) <= 1


def test_letterbox_crops_always_show_a_fair_part_of_the_frame() -> None:
    frames_THWC = np.full((1, 40, 200, 3), 255, dtype=np.uint8)
    crop = LetterboxCrop(32, (0.08, 1.0))
    rng = np.random.default_rng(0)
    for _ in range(300):
        placed = crop(frames_THWC, rng)
        height, width = placed.frames.shape[-2:]
        assert placed.top + height <= 32
        assert placed.left + width <= 32
        # The whole frame covers a fifth of the square; half of that is the least there may be.
        assert height * width >= 0.08 * 32 * 32


def test_stretch_shows_the_whole_frame() -> None:
    frames_THWC = still(1, 20, 100)
    placed = StretchCrop(50, (1.0, 1.0), (1.0, 1.0))(frames_THWC, np.random.default_rng(0))
    source = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2).float()
    expected = torch.nn.functional.interpolate(source, (50, 50), mode="bilinear", antialias=True)
    assert (placed.frames.float() - expected).abs().max() <= 1.0


@pytest.mark.parametrize("kind", [HorizontalFlip, TimeReverse])
def test_flip_and_reverse_rates_labels_and_pixels(kind: type[HorizontalFlip] | type[TimeReverse]) -> None:
    transform = kind(0.3, {0: 1, 1: 0})
    clip_TCHW = torch.arange(2 * 3 * 2 * 5, dtype=torch.float32).view(2, 3, 2, 5)
    mirrored = clip_TCHW.flip(3 if kind is HorizontalFlip else 0)
    rng = np.random.default_rng(0)
    changed = 0
    for trial in range(2000):
        result, label = transform(clip_TCHW, trial % 3, rng)
        if torch.equal(result, mirrored):
            changed += 1
            assert label == {0: 1, 1: 0, 2: 2}[trial % 3]
        else:
            assert torch.equal(result, clip_TCHW)
            assert label == trial % 3
    assert abs(changed - 600) < 5 * math.sqrt(2000 * 0.3 * 0.7)


def test_label_maps_work_both_ways_and_reject_mistakes() -> None:
    classes = ("left", "right", "up")
    assert resolve_label_map({"left": "right"}, classes) == {0: 1, 1: 0}
    assert resolve_label_map({"left": "right", "right": "left"}, classes) == {0: 1, 1: 0}
    with pytest.raises(ConfigError, match=r"'rigth' is not a class.*'right'"):
        resolve_label_map({"left": "rigth"}, classes)
    with pytest.raises(ConfigError, match="'left' is paired with both 'right' and 'up'"):
        resolve_label_map({"left": "right", "up": "left"}, classes)


def test_the_label_follows_the_flip_through_the_whole_transform() -> None:
    options = AugmentOptions(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=1.0, flip_map={"a": "b"}, reverse=1.0)
    transform = TrainTransform(options, Preprocessing(size=40), ("a", "b", "c"))
    frames_THWC = np.stack([texture(40, 40, seed) for seed in range(3)])
    plain = TrainTransform(WHOLE, Preprocessing(size=40))(frames_THWC, 0, np.random.default_rng(0))[0]
    for label, expected in ((0, 1), (1, 0), (2, 2)):
        clip_CTHW, swapped = transform(frames_THWC, label, np.random.default_rng(0))
        assert swapped == expected
        assert torch.equal(clip_CTHW, plain.flip(1, 3))


def test_color_jitter_factors() -> None:
    frames_TCHW = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3
    rng = np.random.default_rng(0)
    ratios = np.array([float((ColorJitter(brightness=0.3)(frames_TCHW, rng) / frames_TCHW).mean()) for _ in range(500)])
    assert 0.7 <= ratios.min() < 0.71
    assert 1.29 < ratios.max() <= 1.3001
    assert abs(ratios.mean() - 1) < 5 * 0.6 / math.sqrt(12 * 500)
    contrast = ColorJitter(contrast=0.5)(frames_TCHW, rng)
    luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    torch.testing.assert_close((contrast * luma).sum(1).mean(), (frames_TCHW * luma).sum(1).mean())
    saturated = ColorJitter(saturation=0.5)(frames_TCHW, rng)
    torch.testing.assert_close((saturated * luma).sum(1), (frames_TCHW * luma).sum(1))
    gray = ColorJitter(p_gray=1.0)(frames_TCHW, rng)
    assert (gray == gray[:, :1]).all()
    torch.testing.assert_close(ColorJitter(p_invert=1.0)(frames_TCHW, rng), 1 - frames_TCHW)
    assert torch.equal(ColorJitter()(frames_TCHW, rng), frames_TCHW)


def test_contrast_does_not_flicker() -> None:
    # Frames of unlike brightness keep the ratio of their differences: one anchor for the whole clip.
    frames_TCHW = torch.tensor([0.4, 0.5, 0.6])[:, None, None, None].expand(3, 3, 4, 4)
    changed = ColorJitter(contrast=0.5)(frames_TCHW, np.random.default_rng(1))[:, 0, 0, 0]
    torch.testing.assert_close(changed[1] - changed[0], changed[2] - changed[1])
    assert abs(float(changed[1] - changed[0]) - 0.1) > 1e-3


def test_erasing_rate_area_and_place() -> None:
    clip_TCHW = torch.zeros(3, 3, 64, 64)
    rng = np.random.default_rng(0)
    areas = []
    for _ in range(1000):
        erased = RandomErasing(0.25)(clip_TCHW, rng)
        assert (erased == erased[:1]).all()
        changed = (erased[0, 0] != 0).float()
        if changed.any():
            areas.append(float(changed.mean()))
            rows, columns = torch.where(changed > 0)
            # One full rectangle.
            block = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
            assert int(changed.sum()) == int(block)
    assert not clip_TCHW.any()
    assert abs(len(areas) - 250) < 5 * math.sqrt(1000 * 0.25 * 0.75)
    assert min(areas) > 0.018
    assert max(areas) < 0.34
    noise = RandomErasing(1.0, scale=(0.3, 0.3))(clip_TCHW, rng)
    values = noise[0][noise[0] != 0]
    assert abs(float(values.mean())) < 0.1
    assert abs(float(values.std()) - 1) < 0.1


def test_erased_blocks_are_as_published() -> None:
    erase, rng = RandomErasing(1.0), np.random.default_rng(0)
    clip_TCHW = torch.zeros(1, 1, 90, 90)
    blocks = []
    for _ in range(1500):
        erased_HW = erase(clip_TCHW, rng)[0, 0].numpy() != 0
        rows, columns = np.flatnonzero(erased_HW.any(1)), np.flatnonzero(erased_HW.any(0))
        blocks.append((rows[0], rows[-1] + 1 - rows[0], columns[0], columns[-1] + 1 - columns[0]))
    top, height, left, width = np.array(blocks).T
    area, aspect = boxes_that_fit(89, 89, (0.02 * 90**2 / 89**2, 90**2 / 89**2 / 3), (0.3, 1 / 0.3))
    assert ks_distance(height * width / 89**2, area) < 1.95
    # Sides are whole pixels, so the aspect of small blocks is coarse: spread it over the pixel.
    spread = (height + rng.uniform(-0.5, 0.5, len(height))) / (width + rng.uniform(-0.5, 0.5, len(width)))
    assert ks_distance(np.log(spread), aspect) < 1.95
    for free, start in ((90 - height, top), (90 - width, left)):
        assert ks_distance((start + rng.random(len(start))) / (free + 1), rng.random(40000)) < 1.95


def test_erasing_noise_may_be_new_in_every_frame() -> None:
    clip_TCHW = torch.zeros(8, 3, 64, 64)
    for seed in range(5):
        once = RandomErasing(1.0)(clip_TCHW, np.random.default_rng(seed))
        fresh = RandomErasing(1.0, noise="frame")(clip_TCHW, np.random.default_rng(seed))
        assert torch.equal(fresh != 0, once != 0)  # the same block in every frame
        assert torch.equal(fresh[0], once[0])
        assert all(not torch.equal(fresh[t], fresh[0]) for t in range(1, 8))
        values = fresh[fresh != 0]
        assert abs(float(values.mean())) < 5 / math.sqrt(len(values))
        assert abs(float(values.std()) - 1) < 5 / math.sqrt(2 * len(values))
    options = AugmentOptions(erasing=1.0, erasing_noise="frame")
    clip_CTHW, _ = TrainTransform(options, Preprocessing(size=32))(still(), 0, np.random.default_rng(0))
    changed = (clip_CTHW[:, 0] != clip_CTHW[:, 1]).any(0)
    assert 0.01 < changed.float().mean() < 0.4


def test_rotation_turns_about_the_centre() -> None:
    clip_TCHW = torch.zeros(2, 3, 65, 65)
    clip_TCHW[:, :, 32, 56] = 1.0
    rng = np.random.default_rng(0)
    angles = []
    for _ in range(200):
        rotated = RandomRotation(20.0)(clip_TCHW, rng)
        assert (rotated == rotated[:1, :1]).all()
        weight_HW = rotated[0, 0] / rotated[0, 0].sum()
        y = float((weight_HW.sum(1) * torch.arange(65)).sum()) - 32
        x = float((weight_HW.sum(0) * torch.arange(65)).sum()) - 32
        assert abs(math.hypot(x, y) - 24) < 0.7
        angles.append(math.degrees(math.atan2(y, x)))
    assert -20.5 < min(angles) < -17
    assert 17 < max(angles) < 20.5


def test_noise_is_new_in_every_frame_and_no_stronger_than_said() -> None:
    frames_TCHW = torch.full((2, 3, 32, 32), 0.5)
    strengths = [
        float((GaussianNoise(0.05)(frames_TCHW, np.random.default_rng(seed)) - 0.5).std()) for seed in range(50)
    ]
    assert max(strengths) < 0.052
    assert max(strengths) > 0.045
    noisy = GaussianNoise(0.05)(frames_TCHW, np.random.default_rng(0))
    assert not torch.equal(noisy[0], noisy[1])
    options = AugmentOptions(noise=0.05)
    clip_CTHW, _ = TrainTransform(options, Preprocessing(size=32))(still(), 0, np.random.default_rng(0))
    assert not torch.equal(clip_CTHW[:, 0], clip_CTHW[:, 1])


def test_options_survive_json_and_name_mistakes() -> None:
    options = AugmentOptions(crop_scale=(0.5, 1.0), flip=0.5, flip_map={"left": "right"}, noise=0.01)
    assert AugmentOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options
    with pytest.raises(ConfigError, match=r"unknown key 'fliip'.*'flip'"):
        AugmentOptions.from_dict({"fliip": 0.5})
    with pytest.raises(ConfigError, match="flip is a probability"):
        AugmentOptions(flip=1.5)
    with pytest.raises(ConfigError, match="crop_scale"):
        AugmentOptions(crop_scale=(0.9, 0.1))
    with pytest.raises(ConfigError, match="at most 1"):
        AugmentOptions(crop_scale=(0.9, 1.1))
    with pytest.raises(ConfigError, match="rotation must be a number of at least 0"):
        AugmentOptions(rotation=-1)
    for wrong, message in (
        ({"flip": "yes"}, "flip is a probability in .*'yes'"),
        ({"noise": None}, "noise must be a number"),
        ({"crop_scale": 0.5}, "crop_scale must be 2 numbers, got 0.5"),
        ({"flip_map": ["left"]}, "flip_map must map class names"),
        ({"reduce_to": 0}, "reduce_to must be null or a number of pixels, got 0"),
        ({"erasing_noise": "video"}, "erasing_noise must be one of clip, frame, got 'video'"),
    ):
        with pytest.raises(ConfigError, match=message):
            AugmentOptions.from_dict(wrong)
