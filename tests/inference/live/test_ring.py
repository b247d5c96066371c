"""The ring buffer between reading and predicting."""

from __future__ import annotations

import itertools
import threading
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emim.inference.live.clip import FrameRing, LiveFrame

PIXELS = torch.zeros(3, 1, 1, dtype=torch.uint8)


def frame(at: float, run: int = 1) -> LiveFrame:
    return LiveFrame(at, at, PIXELS, run)


def times(ring: FrameRing) -> list[float]:
    return [item.time for item in ring.frames()[1]]


def test_overwrites_the_oldest() -> None:
    ring = FrameRing(3, spacing=0.5)
    for number in range(5):
        ring.put(frame(number))
    assert times(ring) == [2, 3, 4]
    assert ring.frames()[0] == ring.count == 5


@given(
    st.lists(st.floats(0.0, 0.7, allow_nan=False), min_size=1, max_size=120),
    st.integers(2, 12),
    st.floats(0.01, 0.5),
)
def test_spans_its_time_at_any_frame_rate(gaps: list[float], capacity: int, spacing: float) -> None:
    ring = FrameRing(capacity, spacing)
    given_times: list[float] = []
    for gap in gaps:
        given_times.append((given_times[-1] if given_times else 0.0) + gap)
        ring.put(frame(given_times[-1]))
        kept = times(ring)
        assert kept[-1] == given_times[-1]
        assert len(kept) <= capacity
        assert kept == sorted(kept)
        assert set(kept) <= set(given_times)
        assert all(later - earlier >= spacing for earlier, later in itertools.pairwise(kept[:-1]))
        covered = kept[-1] - kept[0] >= (capacity - 2) * spacing - 1e-9
        assert covered or kept[0] == given_times[0]


def test_a_new_run_empties_it() -> None:
    ring = FrameRing(5, spacing=0.1)
    for item in (frame(1.0), frame(2.0), frame(3.0, run=2)):
        ring.put(item)
    assert times(ring) == [3.0]


def test_waiting() -> None:
    ring = FrameRing(2, spacing=0.1)
    assert not ring.wait(0, timeout=0.01)
    threading.Timer(0.05, ring.put, [frame(0.0)]).start()
    began = time.monotonic()
    assert ring.wait(0, timeout=100)
    assert time.monotonic() - began < 60
    threading.Timer(0.05, ring.close).start()
    assert not ring.wait(1, timeout=100)
    assert ring.closed
    assert time.monotonic() - began < 60
    assert ring.wait(0, timeout=0)  # what came before the end is still there


def test_needs_room() -> None:
    with pytest.raises(ValueError, match="at least 2, got 1"):
        FrameRing(1, 0.1)
