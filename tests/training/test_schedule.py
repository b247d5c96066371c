from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emim.training.optimisation import learning_rate


@pytest.mark.parametrize(
    ("progress", "rate"),
    [(0.0, 1e-6), (0.05, (1e-3 + 1e-6) / 2), (0.1, 1e-3), (0.55, (1e-3 + 1e-6) / 2), (1.0, 1e-6), (1.7, 1e-6)],
)
def test_warm_up_then_cosine(progress: float, rate: float) -> None:
    assert learning_rate(progress, peak=1e-3, floor=1e-6, warmup=0.1) == pytest.approx(rate)


@given(st.floats(0, 1), st.floats(0, 1))
def test_stays_between_floor_and_peak(progress: float, warmup: float) -> None:
    rate = learning_rate(progress, peak=1e-3, floor=1e-6, warmup=warmup)
    assert 1e-6 <= rate <= 1e-3 or math.isclose(rate, 1e-3)
