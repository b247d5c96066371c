"""Timing in turns: every job runs equally often, and what is reported follows from the samples."""

from __future__ import annotations

import time

import pytest

from emim.bench.measuring import Timing, interleaved, quartiles, times_faster


def test_jobs_take_turns_and_warm_up_does_not_count() -> None:
    order: list[str] = []
    timings = interleaved({name: lambda name=name: order.append(name) for name in "abc"}, repeats=3, warmup=1)
    rounds = ["".join(order[i : i + 3]) for i in range(0, 12, 3)]
    assert rounds == ["cab", "abc", "bca", "cab"]
    assert list(timings) == ["a", "b", "c"]
    assert all(len(t.wall_ms) == len(t.cpu_ms) == 3 for t in timings.values())


def test_sleep_takes_clock_time_but_no_processor_time() -> None:
    timing = interleaved({"sleep": lambda: time.sleep(0.02)}, repeats=1, warmup=0)["sleep"]
    assert timing.wall_ms[0] >= 20
    assert timing.cpu_ms[0] < timing.wall_ms[0]


def test_summary_follows_from_the_samples() -> None:
    timing = Timing(wall_ms=(4.0, 1.0, 2.0, 3.0, 100.0), cpu_ms=(1.0, 2.0, 3.0, 4.0, 5.0))
    assert timing.to_dict() == {
        "median_ms": 3.0,
        "quartiles_ms": [2.0, 4.0],
        "cpu_median_ms": 3.0,
        "repeats": 5,
    }
    assert quartiles([7.0]) == (7.0, 7.0)


def test_ratio_is_taken_within_rounds() -> None:
    """A round in which everything is slow leaves the ratio alone."""
    job = Timing((1.0, 10.0, 1.0), (1.0,) * 3)
    other = Timing((2.0, 20.0, 2.0), (1.0,) * 3)
    assert times_faster(job, other) == pytest.approx(2)
