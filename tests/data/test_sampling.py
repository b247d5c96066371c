"""Frame sampling: index lists worked out by hand from the formulas, and properties of all lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emim.data.sampling import (
    dense_indices_test,
    dense_indices_train,
    segment_indices_test,
    segment_indices_train,
)
from emim.errors import ConfigError

LENGTHS = st.integers(1, 2000)
COUNTS = st.integers(1, 64)
FPS = st.floats(0.5, 240)


@pytest.mark.parametrize(
    ("num_frames", "n", "clip", "clips", "expected"),
    [
        (33, 4, 0, 1, [4, 12, 20, 28]),  # seg = 8, offset floor(8/2)
        (33, 4, 0, 2, [2, 10, 18, 26]),  # offset floor(8/3)
        (33, 4, 1, 2, [5, 13, 21, 29]),  # offset floor(16/3)
        (11, 4, 0, 1, [1, 3, 6, 9]),  # seg = 2.5: 2.5 rounds to 2 and 7.5 to 8 (half to even), offset 1
        (3, 4, 0, 1, [0, 0, 1, 2]),  # fewer frames than wanted: frames repeat
        (1, 3, 0, 1, [0, 0, 0]),
    ],
)
def test_segment_test_indices_by_hand(num_frames: int, n: int, clip: int, clips: int, expected: list[int]) -> None:
    assert segment_indices_test(num_frames, n, clip, clips).tolist() == expected


@pytest.mark.parametrize(
    ("num_frames", "n", "stride", "fps", "clip", "clips", "expected"),
    [
        (100, 4, 4, 30.0, 0, 1, [42, 47, 52, 57]),  # span 16, delta 84, start 42, step 15/3
        (100, 4, 4, 30.0, 0, 4, [0, 5, 10, 15]),
        (100, 4, 4, 30.0, 2, 4, [56, 61, 66, 71]),  # start 2 * floor(84/3)
        (100, 4, 4, 30.0, 3, 4, [84, 89, 94, 99]),
        (20, 4, 4, 15.0, 0, 1, [6, 8, 10, 13]),  # span 8, start 6, step 7/3
        (10, 4, 4, 30.0, 0, 1, [0, 5, 9, 9]),  # shorter than the span: the last frame repeats
        # span 19.2, start 109, step 2.6: the sixth is 122 exactly, which floating point puts just below.
        (238, 8, 3, 24.0, 0, 1, [109, 111, 114, 116, 119, 122, 124, 127]),
        (300, 16, 4, 30.0, 0, 1, [118 + (63 * i) // 15 for i in range(16)]),  # Kinetics: step 4.2
    ],
)
def test_dense_test_indices_by_hand(
    num_frames: int, n: int, stride: int, fps: float, clip: int, clips: int, expected: list[int]
) -> None:
    assert dense_indices_test(num_frames, n, stride, fps, clip, clips).tolist() == expected


@given(LENGTHS, COUNTS, st.integers(1, 10), st.integers(0, 2**32))
def test_segment_indices_stay_in_their_segments(num_frames: int, n: int, clips: int, seed: int) -> None:
    segment = (num_frames - 1) / n
    train = segment_indices_train(num_frames, n, np.random.default_rng(seed))
    for i, index in enumerate(train):
        assert round(segment * i) <= index <= round(segment * (i + 1))
    for indices in (train, *(segment_indices_test(num_frames, n, clip, clips) for clip in range(clips))):
        _check(indices, num_frames, n)


@given(LENGTHS, COUNTS, st.integers(1, 16), FPS, st.integers(1, 10), st.integers(0, 2**32))
def test_dense_indices_are_sorted_and_in_range(
    num_frames: int, n: int, stride: int, fps: float, clips: int, seed: int
) -> None:
    span = n * stride * fps / 30
    train = dense_indices_train(num_frames, n, stride, fps, np.random.default_rng(seed))
    for indices in (
        train,
        *(dense_indices_test(num_frames, n, stride, fps, clip, clips) for clip in range(clips)),
    ):
        _check(indices, num_frames, n)
        assert indices[-1] - indices[0] <= max(span, 1)


def test_segment_training_is_uniform_over_both_ends() -> None:
    rng = np.random.default_rng(0)
    draws = np.stack([segment_indices_train(9, 2, rng) for _ in range(6000)])  # [0, 4] and [4, 8]
    for column, low in ((0, 0), (1, 4)):
        counts = np.bincount(draws[:, column] - low, minlength=5)
        assert len(counts) == 5
        # 1200 expected each; five standard deviations are 155.
        assert np.abs(counts - 1200).max() < 155


def test_dense_training_start_covers_the_video_uniformly() -> None:
    rng = np.random.default_rng(0)
    starts = np.array([dense_indices_train(100, 4, 4, 30.0, rng)[0] for _ in range(4000)])
    assert starts.min() == 0
    assert starts.max() == 83
    assert abs(starts.mean() - 41.5) < 5 * 84 / np.sqrt(12 * 4000)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match="16 frames from a video of 0"):
        segment_indices_test(0, 16)
    with pytest.raises(ConfigError, match=r"clip 2 is outside 0\.\.1"):
        segment_indices_test(10, 4, 2, 2)
    with pytest.raises(ConfigError, match="stride must be at least 1"):
        dense_indices_test(10, 4, 0, 30.0)
    with pytest.raises(ConfigError, match="positive frame rate, got 0"):
        dense_indices_test(10, 4, 4, 0.0)


def _check(indices: np.ndarray, num_frames: int, n: int) -> None:
    assert indices.shape == (n,)
    assert indices.dtype == np.int64
    assert indices.min() >= 0
    assert indices.max() < num_frames
    assert (np.diff(indices) >= 0).all()
