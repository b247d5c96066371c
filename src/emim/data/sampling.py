"""Choose the frames of a clip: segment and dense sampling, in training and in testing.

Pure functions on frame counts; every result is an int64 array of T indices in [0, F), never decreasing.
The formulas are those of the published recipes (Something-Something and Diving48: segment; Kinetics:
dense). `round` there is Python's and NumPy's: halves go to the even neighbour.

Legend: F frames in the video, T frames in the clip (`n`), V test clips per video, c the test clip's number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from emim.errors import ConfigError

__all__ = [
    "REFERENCE_FPS",
    "IndexArray",
    "dense_indices_test",
    "dense_indices_train",
    "segment_indices_test",
    "segment_indices_train",
]

IndexArray = NDArray[np.int64]

# The stride of dense sampling counts frames of a 30 fps video.
REFERENCE_FPS = 30.0


def segment_indices_train(num_frames: int, n: int, rng: np.random.Generator) -> IndexArray:
    """One random frame from each of `n` equal segments.

    With seg = (F - 1) / T, frame i is uniform over the integers of [round(seg*i), round(seg*(i+1))], both
    ends included. A video with fewer than T frames repeats frames.
    """
    _check_counts(num_frames, n)
    edges = _segment_edges(num_frames, n)
    return _clamp(rng.integers(edges[:-1], edges[1:], endpoint=True), num_frames)


def segment_indices_test(num_frames: int, n: int, clip: int = 0, clips: int = 1) -> IndexArray:
    """The frame of each of `n` equal segments that test clip `clip` of `clips` takes.

    With seg = (F - 1) / T: round(seg*i) + floor(seg / (V + 1) * (c + 1)).
    """
    _check_counts(num_frames, n)
    _check_clip(clip, clips)
    segment = (num_frames - 1) / n
    offset = int(segment / (clips + 1) * (clip + 1))
    return _clamp(_segment_edges(num_frames, n)[:-1] + offset, num_frames)


def dense_indices_train(num_frames: int, n: int, stride: int, fps: float, rng: np.random.Generator) -> IndexArray:
    """`n` evenly spaced frames of a span with a random start.

    The span is T * stride frames at 30 fps, span = T * stride * fps / 30 of the video's own; the start is
    uniform over [0, max(F - span, 0)]. Indices are `linspace(start, start + span - 1, T)`, clamped to the
    video and rounded down, so a video shorter than the span repeats its last frame.
    """
    span, delta = _dense_span(num_frames, n, stride, fps)
    return _dense_indices(num_frames, n, float(rng.uniform(0.0, delta)), span)


def dense_indices_test(num_frames: int, n: int, stride: int, fps: float, clip: int = 0, clips: int = 1) -> IndexArray:
    """As `dense_indices_train`, with the start of test clip `clip` of `clips`.

    With delta = max(F - span, 0): floor(delta / 2) for V = 1, else c * floor(delta / (V - 1)).
    """
    _check_clip(clip, clips)
    span, delta = _dense_span(num_frames, n, stride, fps)
    start = delta // 2 if clips == 1 else clip * (delta // (clips - 1))
    return _dense_indices(num_frames, n, start, span)


def _segment_edges(num_frames: int, n: int) -> IndexArray:
    segment = (num_frames - 1) / n
    edges: IndexArray = np.rint(segment * np.arange(n + 1)).astype(np.int64)
    return edges


def _dense_span(num_frames: int, n: int, stride: int, fps: float) -> tuple[float, float]:
    _check_counts(num_frames, n)
    if stride < 1:
        raise ConfigError(f"sampling stride must be at least 1, got {stride}")
    if not (np.isfinite(fps) and fps > 0):
        raise ConfigError(f"dense sampling needs a positive frame rate, got {fps} fps; use segment sampling")
    span = n * stride * fps / REFERENCE_FPS
    return span, max(num_frames - span, 0.0)


def _dense_indices(num_frames: int, n: int, start: float, span: float) -> IndexArray:
    # A span under one frame (a very low frame rate) must not run backwards.
    end = max(start, start + span - 1)
    # The tolerance keeps a position that is a whole number from being rounded down to the frame before.
    return _clamp(np.linspace(start, end, n) + 1e-9, num_frames)


def _clamp(indices: NDArray[Any], num_frames: int) -> IndexArray:
    # Rounds down, since nothing is negative after the clip.
    clamped: IndexArray = np.clip(indices, 0, num_frames - 1).astype(np.int64)
    return clamped


def _check_counts(num_frames: int, n: int) -> None:
    if num_frames < 1 or n < 1:
        raise ConfigError(f"cannot take {n} frames from a video of {num_frames}: both must be at least 1")


def _check_clip(clip: int, clips: int) -> None:
    if not 0 <= clip < clips:
        raise ConfigError(f"test clip {clip} is outside 0..{clips - 1}")
