"""RandAugment: the published draws, the same for all frames, and clear words for a wrong recipe string.

Shape legend: T frames, H height, W width, C channels.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from emim.data.augment.randaugment import OPERATIONS, RandAugment, Step
from emim.data.augment.transforms import AugmentOptions, TrainTransform
from emim.data.preprocessing import Preprocessing
from emim.errors import ConfigError

PUBLISHED = "rand-m7-n4-mstd0.5-inc1"
SIGNED = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY", "Color", "Contrast", "Brightness", "Sharpness")
CLIPS = 6000


@pytest.fixture(scope="module")
def draws() -> list[list[Step]]:
    augment, rng = RandAugment.parse(PUBLISHED), np.random.default_rng(0)
    return [augment.draw(rng) for _ in range(CLIPS)]


def chi_square(counts: list[int], shares: list[float]) -> float:
    total = sum(counts)
    return sum((count - total * share) ** 2 / (total * share) for count, share in zip(counts, shares, strict=True))


def test_there_are_the_fifteen_published_operations() -> None:
    assert len(OPERATIONS) == 15


def test_operations_are_applied_equally_often(draws: list[list[Step]]) -> None:
    counts = Counter(step.name for steps in draws for step in steps)
    assert set(counts) == set(OPERATIONS)
    # 14 degrees of freedom: above 36 once in a thousand.
    assert chi_square([counts[name] for name in OPERATIONS], [1 / 15] * 15) < 36


def test_the_number_applied_is_binomial(draws: list[list[Step]]) -> None:
    counts = Counter(map(len, draws))
    assert set(counts) == set(range(5))
    # 4 degrees of freedom: above 18.5 once in a thousand.
    assert chi_square([counts[k] for k in range(5)], [math.comb(4, k) / 16 for k in range(5)]) < 18.5


def test_operations_are_drawn_with_replacement(draws: list[list[Step]]) -> None:
    pairs = [steps for steps in draws if len(steps) == 2]
    twice = sum(one.name == other.name for one, other in pairs)
    expected = len(pairs) / 15
    assert abs(twice - expected) < 5 * math.sqrt(expected)
    # And in any order: the first operation says nothing about the second.
    first = sum(list(OPERATIONS).index(one.name) < list(OPERATIONS).index(other.name) for one, other in pairs)
    assert abs(first - (len(pairs) - twice) / 2) < 5 * math.sqrt(len(pairs) / 4)


def test_magnitudes_are_normal(draws: list[list[Step]]) -> None:
    largest = {"Rotate": 30, "ShearX": 0.3, "ShearY": 0.3, "TranslateX": 0.45, "TranslateY": 0.45}
    values = [10 * abs(s.strength) / largest[s.name] for steps in draws for s in steps if s.name in largest]
    values += [10 * abs(s.strength - 1) / 0.9 for steps in draws for s in steps if s.name in SIGNED[5:]]
    assert len(values) > 6000
    scores = (np.array(values) - 7) / 0.5
    assert abs(scores.mean()) < 5 / math.sqrt(len(scores))
    assert abs(scores.std() - 1) < 5 / math.sqrt(2 * len(scores))
    # The largest distance from the normal distribution function (Kolmogorov-Smirnov; 1.95 once in a thousand).
    scores.sort()
    normal = np.array([(1 + math.erf(score / math.sqrt(2))) / 2 for score in scores])
    steps = np.arange(len(scores) + 1) / len(scores)
    distance = max(np.abs(normal - steps[:-1]).max(), np.abs(normal - steps[1:]).max())
    assert distance * math.sqrt(len(scores)) < 1.95


@pytest.mark.parametrize("name", SIGNED)
def test_operations_that_go_both_ways_do_so_equally_often(draws: list[list[Step]], name: str) -> None:
    middle = 1 if name in SIGNED[5:] else 0
    values = [step.strength > middle for steps in draws for step in steps if step.name == name]
    assert abs(sum(values) - len(values) / 2) < 4 * math.sqrt(len(values) / 4)


def test_magnitudes_of_clips_are_independent_of_each_other(draws: list[list[Step]]) -> None:
    pairs = [
        (abs(steps[0].strength), abs(steps[1].strength))
        for steps in draws
        if len(steps) > 1 and all(step.name == "Rotate" or step.name.startswith("Shear") for step in steps[:2])
    ]
    scaled = np.array([[value / (21 if value > 1 else 0.21) for value in pair] for pair in pairs])
    assert len(scaled) > 100
    assert abs(np.corrcoef(scaled.T)[0, 1]) < 5 / math.sqrt(len(scaled))


def test_drawn_magnitudes_stay_on_the_scale() -> None:
    augment, rng = RandAugment.parse("rand-m9-n4-mstd5-inc1"), np.random.default_rng(0)
    strengths: dict[str, list[float]] = {name: [] for name in OPERATIONS}
    for _ in range(1500):
        for step in augment.draw(rng):
            strengths[step.name].append(step.strength)
    for name, low, high in (
        ("Rotate", -30, 30),
        ("ShearX", -0.3, 0.3),
        ("TranslateY", -0.45, 0.45),
        ("Posterize", 0, 4),
        ("Solarize", 0, 256),
        ("SolarizeAdd", 0, 110),
        ("Color", 0.1, 1.9),
    ):
        assert min(strengths[name]) == pytest.approx(low, abs=1e-9)
        assert max(strengths[name]) == pytest.approx(high, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "at_7", "at_10"),
    [
        ("Rotate", -21.0, -30.0),
        ("ShearX", -0.21, -0.3),
        ("TranslateX", -0.315, -0.45),
        ("Posterize", 2, 0),
        ("Solarize", 77, 0),
        ("SolarizeAdd", 77, 110),
        ("Contrast", 0.37, 0.1),
        ("Invert", 0, 0),
    ],
)
def test_published_strengths(name: str, at_7: float, at_10: float) -> None:
    augment = RandAugment.parse(PUBLISHED)
    assert augment.strength(name, 7.0, -1) == pytest.approx(at_7)
    assert augment.strength(name, 10.0, -1) == pytest.approx(at_10)


def test_strengths_without_inc() -> None:
    augment = RandAugment.parse("rand-m9")
    assert augment.strength("Posterize", 9.0, 1) == 3
    assert augment.strength("Solarize", 9.0, 1) == 230
    assert augment.strength("Sharpness", 9.0, -1) == pytest.approx(1.72)


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in ("AutoContrast", "Equalize", "Invert")])
def test_severity_grows_with_the_magnitude(name: str) -> None:
    y, x = np.mgrid[:48, :64]
    smooth_HWC = np.stack([127 + 100 * np.sin(x / 9 + c) * np.cos(y / 7) for c in range(3)], -1)
    fine_HWC = np.random.default_rng(0).uniform(-20, 20, smooth_HWC.shape)
    frames_THWC = (smooth_HWC + fine_HWC)[None].astype(np.uint8)
    augment = RandAugment.parse(PUBLISHED)
    changes = []
    for magnitude in (1.0, 5.0, 9.0):
        strength = augment.strength(name, magnitude, -1)
        result_THWC = OPERATIONS[name](frames_THWC, strength, 128)
        changes.append(np.abs(result_THWC.astype(int) - frames_THWC).mean())
    assert changes[0] < changes[1] < changes[2]


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_a_still_clip_stays_still_under_each_operation(name: str) -> None:
    frame_HWC = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    frames_THWC = np.repeat(frame_HWC[None], 3, 0)
    strength = RandAugment.parse(PUBLISHED).strength(name, 7.0, 1)
    result_THWC = OPERATIONS[name](frames_THWC, strength, 128)
    assert (result_THWC == result_THWC[:1]).all()
    if name != "Equalize" and name != "AutoContrast":  # uniform noise is level and wide already
        assert (result_THWC != frames_THWC).any()


def test_what_is_uncovered_is_grey() -> None:
    frames_THWC = np.zeros((2, 40, 60, 3), dtype=np.uint8)
    augment = RandAugment.parse(PUBLISHED)
    for name in ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"):
        result_THWC = OPERATIONS[name](frames_THWC, augment.strength(name, 7.0, 1), augment.fill)
        assert set(np.unique(result_THWC)) == {0, 128}
    moved_THWC = OPERATIONS["TranslateX"](frames_THWC, 0.25, augment.fill)
    assert (moved_THWC[:, :, 45:] == 128).all()
    assert not moved_THWC[:, :, :45].any()


def test_the_generator_alone_decides_and_the_input_stays() -> None:
    frames_THWC = np.random.default_rng(0).integers(0, 256, (2, 30, 40, 3), dtype=np.uint8)
    before_THWC = frames_THWC.copy()
    augment = RandAugment.parse(PUBLISHED)
    results = []
    for seed in range(40):
        one = augment(frames_THWC, np.random.default_rng(seed))
        assert (one == augment(frames_THWC, np.random.default_rng(seed))).all()
        results.append(one.tobytes())
    assert (frames_THWC == before_THWC).all()
    assert len(set(results)) > 30  # no operation at all has probability 1/16


def test_frames_are_augmented_before_the_crop() -> None:
    frames_THWC = np.random.default_rng(0).integers(0, 256, (2, 30, 40, 3), dtype=np.uint8)
    pre = Preprocessing(size=24)
    augmented, plain = TrainTransform(AugmentOptions(randaugment=PUBLISHED), pre), TrainTransform(AugmentOptions(), pre)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        expected_CTHW, _ = plain(RandAugment.parse(PUBLISHED)(frames_THWC, rng), 0, rng)
        clip_CTHW, _ = augmented(frames_THWC, 0, np.random.default_rng(seed))
        assert (clip_CTHW == expected_CTHW).all()


def test_the_string_is_understood() -> None:
    assert RandAugment.parse(PUBLISHED) == RandAugment(7, 4, 0.5, True, 0.5)
    assert RandAugment.parse("rand-inc1-mstd0.5-n4-m7") == RandAugment.parse(PUBLISHED)
    assert RandAugment.parse("rand-m9-mstd0.5-inc1") == RandAugment(9, 2, 0.5, True)
    assert RandAugment.parse("rand-m4.5-n1-p0.25-inc0") == RandAugment(4.5, 1, 0, False, 0.25)
    assert RandAugment.parse("rand") == RandAugment(10, 2)
    every, rng = RandAugment.parse("rand-n3-p1"), np.random.default_rng(0)
    assert all(len(every.draw(rng)) == 3 for _ in range(50))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("", "must start with 'rand-'"),
        ("augmix-m5", "must start with 'rand-'.*'augmix-m5'"),
        ("rand-m7-w0", "unknown key 'w' in 'rand-m7-w0'; known: inc, m, mstd, n, p"),
        ("rand-m7-msdt0.5", "unknown key 'msdt'.*did you mean 'mstd'"),
        ("rand-m7-n", "'n' in 'rand-m7-n' is not a key and a number"),
        ("rand-m-7", "'m' in 'rand-m-7' is not a key and a number"),
        ("rand-m7-m8", "'m' is given twice"),
        ("rand-m11", "m in 'rand-m11' must be a number from 0 to 10, got 11"),
        ("rand-n0", "n in 'rand-n0' must be a whole number from 1 to 100, got 0"),
        ("rand-n2.5", "n in 'rand-n2.5' must be a whole number"),
        ("rand-inc2", "inc in 'rand-inc2' must be a whole number from 0 to 1, got 2"),
        ("rand-p1.5", "p in 'rand-p1.5' must be a number from 0 to 1, got 1.5"),
        (7, "must be a text such as rand-m7-n4-mstd0.5-inc1, got 7"),
        (False, "must be a text .* got False"),
    ],
)
def test_mistakes_in_the_string_are_named(spec: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        AugmentOptions.from_dict({"randaugment": spec})


def test_it_is_off_by_default() -> None:
    assert AugmentOptions().randaugment is None
    assert TrainTransform(AugmentOptions(), Preprocessing()).randaugment is None
