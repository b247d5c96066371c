from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emim.motion.drawing import flow_colours, wheel


def colour(x: float, y: float, largest: float = 1.0) -> tuple[int, ...]:
    return tuple(int(v) for v in flow_colours(np.array([[[x]], [[y]]]), largest)[0, 0])


def test_the_directions_have_middleburys_hues() -> None:
    # By hand from the published numbers of hues: red to yellow 15, to green 6, to cyan 4, to blue 11, to magenta 13.
    assert colour(1, 0) == (255, 0, 0)
    assert colour(0, 1) == (255, 229, 0)
    assert colour(-1, 0) == (0, 208, 255)
    assert colour(0, -1) == (88, 0, 255)


def test_rest_is_white_and_too_long_is_dark() -> None:
    assert colour(0, 0) == (255, 255, 255)
    assert colour(2, 0) == (191, 0, 0)


@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(0.01, 100))
def test_only_the_ratio_to_the_largest_counts(x: float, y: float, largest: float) -> None:
    one = np.array(colour(x, y), dtype=int)
    other = np.array(colour(x * largest, y * largest, largest), dtype=int)
    if abs(np.hypot(x, y) - 1) > 1e-6:
        assert np.abs(one - other).max() <= 1


@given(st.floats(0.05, 0.9), st.floats(0, 6.28))
def test_longer_is_more_saturated(length: float, angle: float) -> None:
    short, long_ = (min(colour(r * np.cos(angle), r * np.sin(angle))) for r in (length, length + 0.1))
    assert long_ <= short


def test_the_wheel_is_the_legend_of_the_colours() -> None:
    image_SSC, disc_SS = wheel(101)
    assert disc_SS[50, 50]
    assert not disc_SS[0, 0]
    assert (image_SSC[50, 50] > 245).all()
    assert np.abs(image_SSC[50, 100].astype(int) - colour(0.99, 0)).max() <= 3
    assert np.abs(image_SSC[100, 50].astype(int) - colour(0, 0.99)).max() <= 3


def test_a_scale_must_be_a_length() -> None:
    with pytest.raises(ValueError, match="above 0"):
        flow_colours(np.zeros((2, 1, 1)), 0.0)
