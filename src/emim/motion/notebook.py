"""Show a prediction with the motion of the video, in a notebook or a terminal."""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass

from emim.errors import UnknownNameError
from emim.inference.reading import VideoSource, open_source, refuse_fps_of_file
from emim.inference.recogniser import Predictions, Recogniser
from emim.motion.overlay import Overlay, overlay_of

__all__ = ["Shown", "show"]

_MOST_SECONDS = 6.0
_MOST_FRAMES = 60


@dataclass(frozen=True, repr=False)
class Shown:
    """A prediction with the video that shows the motion. A notebook plays it; `print` gives text.

    Attributes:
        predictions: the best classes, best first.
        overlay: the video, in `overlay.mp4`; None if there is none.
        note: why there is no video; empty if there is one.
    """

    predictions: Predictions
    overlay: Overlay | None
    note: str = ""

    def __repr__(self) -> str:
        motion = self.note if self.overlay is None else f"motion: {self.overlay.motion}"
        return f"{self.predictions}\n  {motion}"

    def _repr_html_(self) -> str:
        """Return a figure of the playing video and the classes with their scores, without any reference to a file."""
        rows = "".join(_row(item.label, item.score) for item in self.predictions)
        caption = html.escape(self.note if self.overlay is None else f"Motion: {self.overlay.motion}.")
        video = "" if self.overlay is None else _video(self.overlay)
        return (
            f'<figure style="margin:0;display:inline-block">{video}'
            f'<table style="margin:.5em 0;border-collapse:collapse">{rows}</table>'
            f"<figcaption>{html.escape(str(self.predictions.path))}. {caption}</figcaption></figure>"
        )


def show(
    recogniser: Recogniser,
    video: VideoSource,
    topk: int = 3,
    *,
    fps: float | None = None,
    start: float | None = None,
    end: float | None = None,
    seconds: float = _MOST_SECONDS,
) -> Shown:
    """Predict a video and draw its motion: as the last line of a notebook cell, it plays there.

    >>> emim.show(recogniser, "clip.mp4")  # doctest: +SKIP

    The video holds at most 60 frames of 280 pixels, so that a notebook stays small: usually below 500 KB.

    Args:
        recogniser: the trained network.
        video: path, bytes or frames, with `fps`, `start` and `end`: as for `Recogniser.predict`. An iterator is taken
            to its end, and its frames are kept whole.
        topk: number of classes.
        fps: frames per second of frames in memory.
        start: seconds at which to begin.
        end: seconds before which to end.
        seconds: how much of the video is drawn, from `start`.

    Raises:
        VideoError: the video cannot be read.
        ConfigError: frames without `fps`, or `fps` for a file.
    """
    refuse_fps_of_file(video, fps)
    with open_source(video, fps) as reader:
        predictions = recogniser.predict(reader, topk, start=start, end=end)
        first, stop = reader.frame_range(start, end)
        stop = min(stop, first + max(2, round(seconds * reader.fps)))
        try:
            overlay = overlay_of(
                recogniser.model, recogniser.preprocessing, reader, first, stop, most_frames=_MOST_FRAMES
            )
        except UnknownNameError:
            return Shown(predictions, None, "The network has no EMIM block, so there is no motion to draw.")
    return Shown(predictions, overlay)


def _video(overlay: Overlay) -> str:
    source, poster = (base64.b64encode(content).decode("ascii") for content in (overlay.mp4, overlay.poster))
    return (
        f'<video autoplay loop muted playsinline controls width="{overlay.width}" height="{overlay.height}" '
        f'style="display:block;max-width:100%;height:auto" aria-label="{html.escape(overlay.motion)}" '
        f'poster="data:image/jpeg;base64,{poster}" src="data:video/mp4;base64,{source}"></video>'
    )


def _row(label: str, score: float) -> str:
    bar = f'<div style="width:{100 * score:.1f}%;height:.7em;background:#3572b0"></div>'
    return (
        f'<tr><td style="text-align:left;padding-right:1em">{html.escape(label)}</td>'
        f'<td style="text-align:right;padding-right:1em">{score:.1%}</td>'
        f'<td style="width:12em;text-align:left">{bar}</td></tr>'
    )
