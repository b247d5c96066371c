"""Predict a live source at regular times, each time from the newest frames, with smoothing and latency statistics.

Shape suffix: K classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from emim.errors import ConfigError
from emim.inference.live.capture import Backoff, Capture
from emim.inference.live.clip import ClipShape, LiveFrame
from emim.inference.live.connection import Source
from emim.inference.recogniser import Prediction, Recogniser

__all__ = ["LatencyStatistics", "LiveOptions", "LivePrediction", "LivePredictor", "ScoreSmoother", "Summary"]


@dataclass(frozen=True)
class LiveOptions:
    """Times and limits of a live prediction.

    Attributes:
        stride: seconds from one prediction to the next.
        span: seconds that a clip spans; None: see `emim.inference.live.clip.ClipShape`.
        smoothing: weight of the past in the moving average of scores, in [0, 1); 0 does not smooth.
        duration: seconds of the source after which to stop; None for its end.
        timeout: seconds without data after which a network source counts as lost.
        retries: largest number of attempts in a row to open a lost source.
        first_wait: seconds before the first of them; each further wait is twice as long.
        longest_wait: limit of the waits in seconds.
    """

    stride: float = 0.25
    span: float | None = None
    smoothing: float = 0.6
    duration: float | None = None
    timeout: float = 10.0
    retries: int = 10
    first_wait: float = 0.5
    longest_wait: float = 30.0

    def __post_init__(self) -> None:
        for name in ("stride", "span", "duration", "timeout", "first_wait", "longest_wait"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} must be a number of seconds above 0, got {value}")
        if not 0 <= self.smoothing < 1:
            raise ConfigError(f"smoothing must be at least 0 and below 1, got {self.smoothing}")
        if self.retries < 0:
            raise ConfigError(f"retries must be at least 0, got {self.retries}")
        if self.longest_wait < self.first_wait:
            raise ConfigError(f"longest_wait ({self.longest_wait}) must be at least first_wait ({self.first_wait})")


@dataclass(frozen=True)
class LivePrediction:
    """Prediction of the clip that ends with one frame.

    Attributes:
        time: of that frame, in seconds since the first frame of the source.
        captured: time of its arrival on `time.monotonic()`.
        smoothed: classes by smoothed score, best first.
        raw: classes by the score of this clip alone, best first.
    """

    time: float
    captured: float
    smoothed: tuple[Prediction, ...]
    raw: tuple[Prediction, ...]


@dataclass(frozen=True)
class Summary:
    """Counts and latencies of a stream.

    Attributes:
        seconds: of the source, from its first frame to the newest.
        predictions: number of predictions made.
        due: number of predictions due: one for each stride, as far as there were frames.
        latency_p50: median seconds from the arrival of a clip's newest frame to the end of handling its prediction.
        latency_p95: 95th percentile of the same.
        frames: decoded frames.
        late: packets skipped because decoding was too far behind.
        broken: damaged packets, which do not decode.
        reconnects: number of times that a lost source was reopened.
    """

    seconds: float
    predictions: int
    due: int
    latency_p50: float | None
    latency_p95: float | None
    frames: int
    late: int
    broken: int
    reconnects: int

    @property
    def dropped(self) -> int:
        """Predictions that were due but not made, because a newer one was due by then."""
        return self.due - self.predictions


_LEAST = 1e-4
_MOST = 1e4
_RATIO = 1.01


class LatencyStatistics:
    """Histogram of latencies with bins of 1 % width, so that a quantile is off by at most 1 %.

    Values outside 0.1 ms to 10 000 s are clamped.

    Attributes:
        count: number of latencies added.
    """

    def __init__(self) -> None:
        self._bins = [0] * (_bin(_MOST) + 1)
        self.count = 0

    def add(self, seconds: float) -> None:
        """Add one latency."""
        self._bins[_bin(seconds)] += 1
        self.count += 1

    def quantile(self, share: float) -> float | None:
        """Return the latency in seconds that a `share` (0 to 1) of all do not exceed; None before the first."""
        if not 0 <= share <= 1:
            raise ValueError(f"share must lie in 0 to 1, got {share}")
        if not self.count:
            return None
        wanted = max(1, math.ceil(share * self.count))
        seen = 0
        for number, counted in enumerate(self._bins):
            seen += counted
            if seen >= wanted:
                return _LEAST * math.exp((number + 0.5) * math.log(_RATIO))
        raise AssertionError("the bins hold fewer latencies than were counted")


def _bin(seconds: float) -> int:
    return int(math.log(min(max(seconds, _LEAST), _MOST) / _LEAST) / math.log(_RATIO))


class ScoreSmoother:
    """Exponential moving average of scores.

    Dropped predictions let the past decay as if they had been made: after d seconds the past has the weight
    `weight ** (d / stride)`.

    Args:
        weight: of the past, in [0, 1), for predictions `stride` apart; 0 does not smooth.
        stride: seconds between predictions if none is dropped.
    """

    def __init__(self, weight: float, stride: float) -> None:
        if not 0 <= weight < 1:
            raise ValueError(f"the weight of the past must be at least 0 and below 1, got {weight}")
        if not stride > 0:
            raise ValueError(f"stride must be above 0, got {stride}")
        self._weight = weight
        self._stride = stride
        self._mean_K: Tensor | None = None
        self._time = 0.0

    def update(self, score_K: Tensor, time: float) -> Tensor:
        """Add scores to the average; the first scores are the average itself.

        Args:
            score_K: scores, which sum to 1.
            time: their time in seconds; never decreases between resets.

        Returns:
            mean_K: a new tensor, which sums to 1.
        """
        if self._mean_K is None or self._weight == 0:
            self._mean_K = score_K.clone()
        else:
            past = self._weight ** (max(time - self._time, 0.0) / self._stride)
            self._mean_K = torch.lerp(score_K, self._mean_K, past)
        self._time = time
        return self._mean_K.clone()

    def reset(self) -> None:
        """Forget all scores."""
        self._mean_K = None


_LOOK_UP_SECONDS = 0.1  # between checks for notices and for the end, while no frame arrives
_WARM_UP_PASSES = 3


class LivePredictor:
    """Predicts a live source at regular times, and never falls behind.

    >>> predictor = LivePredictor(parse_source("rtsp://..."), recogniser, LiveOptions())  # doctest: +SKIP
    >>> for item in predictor.items():  # doctest: +SKIP
    ...     print(item if isinstance(item, str) else item.smoothed[0].label)

    Whenever the network is ready, it takes the newest frames. Of the predictions that became due while it was busy,
    only the last is made; the others are dropped and counted.

    Args:
        source: the source, as of `parse_source`.
        recogniser: the network.
        options: stride, span, smoothing and limits.

    Raises:
        ConfigError: the span is out of range.
    """

    def __init__(self, source: Source, recogniser: Recogniser, options: LiveOptions | None = None) -> None:
        self._source = source
        self._recogniser = recogniser
        self._options = options = options or LiveOptions()
        self.shape = ClipShape(recogniser.preprocessing, options.span)
        self._ring = self.shape.new_ring()
        self._capture = Capture(
            source,
            self.shape,
            self._ring,
            timeout=options.timeout,
            retries=options.retries,
            backoff=Backoff(options.first_wait, options.longest_wait),
        )
        self._smoother = ScoreSmoother(options.smoothing, options.stride)
        self._latency = LatencyStatistics()
        self._due = 0
        self._newest = 0.0

    def items(self) -> Generator[LivePrediction | str, None, None]:
        """Yield predictions and notices (the source is open, lost, reopened) as they occur; can be called once.

        The latency of a prediction ends when the next item is requested: print it, or send it on, before that. Closing
        the iterator stops reading.

        Raises:
            SourceError: the source cannot be opened, or cannot be reopened after a loss.
            VideoError: the file cannot be read.
            CheckpointError: scores are NaN or infinite.
        """
        self._warm_up()
        self._capture.start()
        try:
            yield from self._watch()
        finally:
            self._capture.stop()

    def summary(self) -> Summary:
        """Return counts and latencies so far."""
        counts = self._capture.counts
        return Summary(
            seconds=self._newest,
            predictions=self._latency.count,
            due=self._due,
            latency_p50=self._latency.quantile(0.5),
            latency_p95=self._latency.quantile(0.95),
            frames=counts.decoded,
            late=counts.late,
            broken=counts.broken,
            reconnects=self._capture.reconnects,
        )

    def _warm_up(self) -> None:
        """Run the first passes of the network, which are slow, before the first frames arrive."""
        pre = self._recogniser.preprocessing
        blank_VCTHW = torch.zeros(1, 3, pre.num_frames, pre.size, pre.size)
        for _ in range(_WARM_UP_PASSES):
            self._recogniser.score(blank_VCTHW)

    def _watch(self) -> Iterator[LivePrediction | str]:
        options, shape = self._options, self.shape
        seen = seen_at_prediction = 0
        run: int | None = None
        next_due: float | None = None
        frames: list[LiveFrame] = []
        while True:
            was_closed = self._ring.closed
            is_new = self._ring.wait(seen, _LOOK_UP_SECONDS)
            while self._capture.notices:
                yield self._capture.notices.popleft()
            if not is_new:
                if was_closed:
                    break
                if frames and self._is_over(time.monotonic() - frames[0].captured + frames[0].time):
                    return  # a lost source must not outlast it
                continue
            seen, frames = self._ring.frames()
            newest = frames[-1]
            self._newest = newest.time
            if self._is_over(newest.time):
                return
            if newest.run != run:
                run, next_due = newest.run, None
                self._smoother.reset()
            if next_due is None and shape.is_covered(frames):
                next_due = newest.time
            if next_due is None or newest.time < next_due:
                continue
            strides = math.floor((newest.time - next_due) / options.stride) + 1
            next_due += strides * options.stride
            # If frames are rarer than strides, no more predictions are due than there were frames.
            due = min(strides, seen - seen_at_prediction)
            seen_at_prediction = seen
            yield from self._predict(frames, due)
        if self._capture.error is not None:
            raise self._capture.error
        if not self._latency.count and len(frames) >= 2:  # a file shorter than the span
            yield from self._predict(frames, 1)

    def _is_over(self, seconds: float) -> bool:
        return self._options.duration is not None and seconds >= self._options.duration

    def _predict(self, frames: list[LiveFrame], due: int) -> Iterator[LivePrediction]:
        """Make one prediction; `due` predictions were due."""
        newest = frames[-1]
        score_K = self._recogniser.score(self.shape.views(self.shape.choose(frames)), self._source.name)
        smoothed_K = self._smoother.update(score_K, newest.time)
        yield LivePrediction(newest.time, newest.captured, self._ranked(smoothed_K), self._ranked(score_K))
        self._latency.add(time.monotonic() - newest.captured)
        self._due += due

    def _ranked(self, score_K: torch.Tensor) -> tuple[Prediction, ...]:
        order = score_K.sort(descending=True)
        classes = self._recogniser.classes
        return tuple(
            Prediction(classes[index], score)
            for score, index in zip(order.values.tolist(), order.indices.tolist(), strict=True)
        )
