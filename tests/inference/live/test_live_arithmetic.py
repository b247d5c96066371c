"""Smoothing, latency statistics, waits and the clock of a stream: pure functions of numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emim.inference.live.capture import Backoff, StreamClock
from emim.inference.live.predictor import LatencyStatistics, ScoreSmoother

latencies = st.lists(st.floats(1e-4, 1e3), min_size=1, max_size=60)


@given(latencies, st.floats(0, 1))
def test_quantiles_are_within_one_per_cent(values: list[float], share: float) -> None:
    statistics = LatencyStatistics()
    assert statistics.quantile(share) is None
    for value in values:
        statistics.add(value)
    exact = sorted(values)[max(1, math.ceil(share * len(values))) - 1]
    assert statistics.count == len(values)
    assert statistics.quantile(share) == pytest.approx(exact, rel=0.01)


def test_latencies_out_of_range_count_as_the_limits() -> None:
    statistics = LatencyStatistics()
    for value in (-1.0, 0.0, 1e9):
        statistics.add(value)
    assert statistics.quantile(0.5) == pytest.approx(1e-4, rel=0.01)
    assert statistics.quantile(1.0) == pytest.approx(1e4, rel=0.01)
    with pytest.raises(ValueError, match="0 to 1"):
        statistics.quantile(1.5)


def test_smoothing_is_the_moving_average() -> None:
    smoother = ScoreSmoother(0.5, stride=0.25)
    one, two = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert smoother.update(one, 0.0).tolist() == [1.0, 0.0]
    assert smoother.update(two, 0.25).tolist() == [0.5, 0.5]
    assert smoother.update(two, 0.75).tolist() == [0.125, 0.875]  # one left out: the past counts a quarter
    smoother.reset()
    assert smoother.update(two, 0.8).tolist() == [0.0, 1.0]


@given(
    st.floats(0, 0.99),
    st.lists(st.tuples(st.floats(0, 3), st.floats(0, 1)), min_size=1, max_size=20),
)
def test_smoothed_scores_stay_scores(weight: float, steps: list[tuple[float, float]]) -> None:
    smoother = ScoreSmoother(weight, stride=0.5)
    now, seen = 0.0, []
    for gap, score in steps:
        now += gap
        seen.append(score)
        mean_K = smoother.update(torch.tensor([score, 1 - score]), now)
        assert float(mean_K.sum()) == pytest.approx(1, abs=1e-5)
        assert min(seen) - 1e-5 <= float(mean_K[0]) <= max(seen) + 1e-5
    if weight == 0:
        assert float(mean_K[0]) == pytest.approx(seen[-1], abs=1e-6)


@pytest.mark.parametrize(("weight", "stride"), [(1.0, 0.1), (-0.1, 0.1), (0.5, 0.0)])
def test_smoothing_out_of_range(weight: float, stride: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        ScoreSmoother(weight, stride)


@given(st.floats(0.01, 10), st.floats(1, 1000), st.integers(1, 40))
def test_waits_double_up_to_the_longest(first: float, factor: float, attempts: int) -> None:
    backoff = Backoff(first, first * factor)
    waits = [backoff.wait() for _ in range(attempts)]
    assert waits == pytest.approx([min(first * 2**number, first * factor) for number in range(attempts)])
    assert backoff.attempts == attempts
    backoff.reset()
    assert (backoff.attempts, backoff.wait()) == (0, first)


def test_paced_frames_are_due_by_their_stamps() -> None:
    clock = StreamClock(paced=True)
    assert clock.due(3.0, now=100.0) == 100.0
    assert clock.due(3.5, now=100.0) == 100.5
    assert clock.due(4.0, now=105.0) == 101.0  # read late: was due before
    assert clock.due(None, now=107.0) == 107.0
    assert clock.due(90.0, now=110.0) == 110.0  # a jump: a new beginning
    assert clock.due(0.0, now=111.0) == 111.0


def test_the_least_delayed_packet_sets_the_clock_of_a_live_stream() -> None:
    clock = StreamClock(paced=False)
    assert clock.due(0.0, now=100.0) == 100.0  # 3 s of backlog come at once
    assert clock.due(1.5, now=100.0) == pytest.approx(100.0)
    assert clock.due(3.0, now=100.0) == pytest.approx(100.0)
    assert clock.due(3.5, now=100.5) == pytest.approx(100.5, abs=0.01)
    assert clock.due(4.0, now=101.7) == pytest.approx(101.0, abs=0.01)  # 0.7 s late


def test_a_slower_clock_of_the_source_is_not_lateness() -> None:
    clock = StreamClock(paced=False)
    for second in range(0, 20_000, 2):
        now = second * (1 + 2e-4)
        assert now - clock.due(float(second), now) < 0.01
