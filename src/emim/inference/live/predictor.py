"""Predictions of a live source, each from the newest frames there are.

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


@dataclass(frozen=True)
class LiveOptions:
    """Times and limits of a live prediction.

    Attributes:
        stride: seconds from one prediction to the next.
        span: seconds that a clip spans; None: see `emim.inference.live.clip.ClipShape`.
        smoothing: weight of the past in the moving average of scores, in [0, 1); 0 does not smooth.
        duration: seconds of the source after which to end; None goes on to its end.
        timeout: seconds without data after which a network source counts as lost.
        retries: attempts in a row to open a lost source.
        first_wait: seconds before the first of them; each further wait is twice as long.
        longest_wait: seconds that no wait exceeds.
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
    """What the network says of the clip that ends with one frame.

    Attributes:
        time: of that frame, seconds since the first frame of the source.
        captured: when it came, on `time.monotonic()`.
        smoothed: classes by smoothed score, best first.
        raw: classes by the score of this clip alone, best first.
    """

    time: float
    captured: float
    smoothed: tuple[Prediction, ...]
    raw: tuple[Prediction, ...]


@dataclass(frozen=True)
class Summary:
    """What became of a stream.

    Attributes:
        seconds: of the source, from its first frame to the newest.
        predictions: made.
        due: predictions that were due: one a stride, as far as there were frames.
        latency_p50: seconds from the arrival of a clip's newest frame to the prediction being dealt with, median.
        latency_p95: 95th percentile.
        frames: decoded.
        late: frames left out without decoding, because decoding was behind.
        broken: packets that do not decode.
        reconnects: times that the lost source came back.
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
        """Predictions that were due and not made, because a newer one was due by then."""
        return self.due - self.predictions


_LEAST = 1e-4
_MOST = 1e4
_RATIO = 1.01


class LatencyStatistics:
    """Counts latencies in bins of 1 % width, so that a quantile is off by at most 1 %.

    Values outside 0.1 ms to 10 000 s count as these limits.

    Attributes:
        count: latencies added.
    """

    def __init__(self) -> None:
        self._bins = [0] * (_bin(_MOST) + 1)
        self.count = 0

    def add(self, seconds: float) -> None:
        """Count one latency."""
        self._bins[_bin(seconds)] += 1
        self.count += 1

    def quantile(self, share: float) -> float | None:
        """The least latency in seconds that at least `share` (0 to 1) of all do not exceed; None before the first."""
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

    A prediction that was left out makes the past count less, as if it had been made: after d seconds the past has the
    weight `weight ** (d / stride)`.

    Args:
        weight: of the past, in [0, 1), where predictions are `stride` apart; 0 does not smooth.
        stride: seconds between predictions where none is left out.
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
        """The average after one more score_K; the first is the average itself.

        Args:
            score_K: scores.
            time: of them in seconds; never decreases between resets.

        Returns:
            mean_K: a new tensor; sums to what the scores sum to.
        """
        if self._mean_K is None or self._weight == 0:
            self._mean_K = score_K.clone()
        else:
            past = self._weight ** (max(time - self._time, 0.0) / self._stride)
            self._mean_K = torch.lerp(score_K, self._mean_K, past)
        self._time = time
        return self._mean_K.clone()

    def reset(self) -> None:
        """Forget the past."""
        self._mean_K = None


_LOOK_UP_SECONDS = 0.1  # between looks for notices and for the end, while no frame comes
_WARM_UP_PASSES = 3


class LivePredictor:
    """Predicts a live source at a stride, and never falls behind.

    >>> predictor = LivePredictor(parse_source("rtsp://..."), recogniser, LiveOptions())  # doctest: +SKIP
    >>> for item in predictor.items():  # doctest: +SKIP
    ...     print(item if isinstance(item, str) else item.smoothed[0].label)

    Whenever the network is ready, it takes the newest frames. Predictions that became due while it was busy are
    dropped, but for the last, and counted.

    Args:
        source: what to watch.
        recogniser: the network.
        options: stride, span, smoothing and so on.

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
        """Predictions and notices (the source is there, lost, back) as they come; can be called once.

        A prediction's latency ends when the next item is asked for: print it, or send it on, before that. Closing the
        iterator stops reading.

        Raises:
            SourceError: the source cannot be opened, or was lost for good.
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
        """What has become of the stream so far."""
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
        """The first passes of a network are slow; they must not meet the first frames."""
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
            # Where frames are rarer than strides, no more can be due than there were frames.
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
        """One prediction, for which `due` of them were due."""
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
