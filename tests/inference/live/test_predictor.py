"""The loop that predicts, without the command line: a consumer that is too slow, and what a loss resets."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest

from emim import Recogniser
from emim.errors import ConfigError, SourceError
from emim.inference.live.connection import parse_source
from emim.inference.live.predictor import LiveOptions, LivePrediction, LivePredictor
from live_sources import BreakingServer, transport_stream, write_video


@pytest.fixture(scope="module")
def recogniser(trained: Path) -> Recogniser:
    return Recogniser.load(trained / "model.safetensors", device="cpu")


def test_a_slow_consumer_gets_the_newest_frames(recogniser: Recogniser, tmp_path: Path) -> None:
    source = parse_source(str(write_video(tmp_path / "clip.mp4", 2.4)))
    predictor = LivePredictor(source, recogniser, LiveOptions(stride=0.1, span=0.2))
    times: list[float] = []
    for item in predictor.items():
        if isinstance(item, LivePrediction):
            times.append(item.time)
            time.sleep(0.35)
    summary = predictor.summary()
    assert summary.predictions == len(times)
    assert all(later - earlier > 0.15 for earlier, later in itertools.pairwise(times))
    # One was due each tenth of a second from 0.2 to the last one made.
    assert summary.due == pytest.approx((times[-1] - 0.2) / 0.1 + 1, abs=1.1)
    assert summary.dropped == summary.due - len(times) >= 2 * (len(times) - 1)
    assert summary.latency_p50 is not None
    assert summary.latency_p50 > 0.35


def test_a_loss_resets_clip_and_smoothing(recogniser: Recogniser) -> None:
    found: list[LivePrediction] = []
    with BreakingServer(transport_stream(2.4), [48, 48]) as server:
        options = LiveOptions(stride=0.1, span=0.4, smoothing=0.95, retries=1, first_wait=0.1)
        predictor = LivePredictor(parse_source(server.url), recogniser, options)
        with pytest.raises(SourceError, match="lost, and 1 attempt to reconnect failed"):
            found.extend(item for item in predictor.items() if isinstance(item, LivePrediction))
    assert predictor.summary().reconnects == 1
    # Smoothed scores equal the raw ones at the very first prediction and at the first after the loss.
    fresh = [item for item in found if item.smoothed == item.raw]
    assert len(fresh) == 2
    assert fresh[0] is found[0]
    # The clip after the loss holds 0.4 s of frames that came after it, so no prediction lies within that time.
    before = found[found.index(fresh[1]) - 1]
    assert fresh[1].time - before.time > 0.3


def test_a_lost_source_does_not_outlast_the_duration(recogniser: Recogniser) -> None:
    with BreakingServer(transport_stream(2.0), [48], hold=True) as server:
        options = LiveOptions(span=0.2, duration=1.5, timeout=100.0)
        predictor = LivePredictor(parse_source(server.url), recogniser, options)
        began = time.monotonic()
        assert any(isinstance(item, LivePrediction) for item in predictor.items())
    assert time.monotonic() - began < 60
    assert predictor.summary().seconds < 1.5


def test_closing_ends_reading(recogniser: Recogniser, tmp_path: Path) -> None:
    source = parse_source(str(write_video(tmp_path / "clip.mp4", 10)))
    predictor = LivePredictor(source, recogniser, LiveOptions(span=0.2))
    items = predictor.items()
    next(items)
    items.close()
    frames = predictor.summary().frames
    time.sleep(0.2)
    assert predictor.summary().frames == frames < 200


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 0.0},
        {"stride": float("nan")},
        {"span": -1.0},
        {"smoothing": 1.0},
        {"duration": 0.0},
        {"timeout": float("inf")},
        {"retries": -1},
        {"first_wait": 2.0, "longest_wait": 1.0},
    ],
)
def test_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        LiveOptions(**options)  # type: ignore[arg-type]
