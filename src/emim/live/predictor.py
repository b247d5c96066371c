"""Predictions of a live source, each from the newest frames there are.

Shape suffix: K classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator

import torch

from emim.evaluation.recogniser import Prediction, Recogniser
from emim.evaluation.stream import check_finite
from emim.live.backoff import Backoff
from emim.live.capture import Capture
from emim.live.clip import ClipShape
from emim.live.latency import LatencyStatistics
from emim.live.options import LiveOptions
from emim.live.results import LivePrediction, Summary
from emim.live.ring import LiveFrame
from emim.live.smoothing import ScoreSmoother
from emim.live.source import Source

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
        score_K = self._recogniser.score(self.shape.views(self.shape.choose(frames)))
        check_finite(score_K, self._source.name, self._recogniser.precision)
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
