"""What predicting a live source gives: single predictions, and a summary at the end."""

from __future__ import annotations

from dataclasses import dataclass

from emim.evaluation.recogniser import Prediction


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
