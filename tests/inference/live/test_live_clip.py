"""Which frames make up a clip of a live source, and what the network is given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emim.data.preprocessing import Preprocessing, views_from_frames
from emim.errors import ConfigError
from emim.inference.live.clip import SEGMENT_SPAN, ClipShape, LiveFrame

PIXELS = torch.zeros(3, 4, 4, dtype=torch.uint8)


def frames_at(times: list[float]) -> list[LiveFrame]:
    return [LiveFrame(time, time, PIXELS, 1) for time in times]


def test_spans() -> None:
    assert ClipShape(Preprocessing(sampling="segment")).span == SEGMENT_SPAN
    # 16 frames, 4 apart at 30 fps: frames 0 to 63.
    assert ClipShape(Preprocessing(num_frames=16, sampling="dense", stride=4)).span == pytest.approx(63 / 30)
    assert ClipShape(Preprocessing(sampling="dense"), span=1.5).span == 1.5
    for span in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="span"):
            ClipShape(Preprocessing(), span=span)


@given(st.lists(st.floats(0.001, 0.4), min_size=1, max_size=200), st.integers(1, 20), st.floats(0.1, 5))
def test_chosen_frames_are_the_nearest(gaps: list[float], num_frames: int, span: float) -> None:
    shape = ClipShape(Preprocessing(num_frames=num_frames), span)
    frames = frames_at(np.cumsum(gaps).tolist())
    chosen = [frame.time for frame in shape.choose(frames)]
    newest = frames[-1].time
    assert len(chosen) == num_frames
    assert chosen == sorted(chosen)
    first = max(frames[0].time, newest - span)
    places = np.linspace(first, newest, num_frames)
    for place, time in zip(places, chosen, strict=True):
        assert abs(time - place) == pytest.approx(min(abs(frame.time - place) for frame in frames), abs=1e-9)
    if num_frames > 1:
        assert chosen[-1] == newest


@pytest.mark.parametrize("fps", [4, 15, 30, 120])
@pytest.mark.parametrize("num_frames", [2, 8, 16])
def test_the_ring_holds_a_clip_at_any_rate(fps: int, num_frames: int) -> None:
    shape = ClipShape(Preprocessing(num_frames=num_frames), span=2.0)
    ring = shape.new_ring()
    covered = []
    for number in range(6 * fps):
        ring.put(frames_at([number / fps])[0])
        covered.append(shape.is_covered(ring.frames()[1]))
    first = covered.index(True)
    assert all(covered[first:])
    assert 2.0 - shape.step / 2 - 1e-9 <= first / fps <= 2.0 + 1 / fps
    chosen = [frame.time for frame in shape.choose(ring.frames()[1])]
    places = np.linspace(chosen[-1] - 2.0, chosen[-1], num_frames)
    assert np.abs(np.array(chosen) - places).max() <= shape.step / 20 + 1 / fps


@pytest.mark.parametrize("fit", ["crop", "letterbox", "stretch"])
def test_views_are_those_of_a_test(fit: str) -> None:
    rng = np.random.default_rng(0)
    frames_THWC = rng.integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)
    pre = Preprocessing(num_frames=3, size=16, fit=fit, crops=3, clips=2)  # type: ignore[arg-type]
    shape = ClipShape(pre)
    live = [LiveFrame(float(number), 0.0, shape.shrink(frame), 1) for number, frame in enumerate(frames_THWC)]
    all_views_VCTHW = views_from_frames(frames_THWC, np.array([[0, 1, 2]]), pre)
    centre = 1 if fit == "crop" else 0
    assert torch.equal(shape.views(live)[0], all_views_VCTHW[centre])
