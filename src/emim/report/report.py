"""Gather the content of a report: the run, its test, and the clips to show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from emim.data.manifest import ClipEntry, relative_path
from emim.environment import Machine, describe_machine
from emim.errors import DataError, UnknownNameError, VideoError
from emim.inference.recogniser import Recogniser
from emim.motion.overlay import Overlay, draw_overlay
from emim.report.measurement import Measurement
from emim.training.run_folder import RunRecord

__all__ = ["ChosenClip", "Report", "ShownClip", "choose_clips", "gather"]


@dataclass(frozen=True)
class ChosenClip:
    """A clip with its prediction.

    Attributes:
        entry: the clip.
        label: its class.
        predicted: the predicted class.
        score: score of the predicted class.
        label_score: score of its own class.
    """

    entry: ClipEntry
    label: str
    predicted: str
    score: float
    label_score: float

    @property
    def correct(self) -> bool:
        """True if the prediction is the label."""
        return self.label == self.predicted


def choose_clips(measurement: Measurement, most: int) -> tuple[tuple[ChosenClip, ...], tuple[ChosenClip, ...]]:
    """Return the most confident correct predictions and the most confident incorrect ones, at most `most` of each.

    One clip of each class comes first, so that they do not all look alike.
    """
    outputs, classes = measurement.outputs, measurement.clips.classes
    score_S, predicted_S = outputs.score_SK.max(1)
    label_score_S = outputs.score_SK.gather(1, outputs.label_S[:, None])[:, 0]
    chosen = [
        ChosenClip(measurement.clips.entries[at], classes[label], classes[predicted], score, label_score)
        for at, label, predicted, score, label_score in zip(
            outputs.index,
            outputs.label_S.tolist(),
            predicted_S.tolist(),
            score_S.tolist(),
            label_score_S.tolist(),
            strict=True,
        )
    ]
    chosen.sort(key=lambda clip: -clip.score)
    correct = [clip for clip in chosen if clip.correct]
    incorrect = [clip for clip in chosen if not clip.correct]
    return _spread(correct, most), _spread(incorrect, most)


def _spread(clips: list[ChosenClip], most: int) -> tuple[ChosenClip, ...]:
    """Return the first `most` clips, where no class has a second one before every other has its first."""
    seen: dict[str, int] = {}
    turns = []
    for order, clip in enumerate(clips):
        turn = seen[clip.label] = seen.get(clip.label, -1) + 1
        turns.append((turn, order, clip))
    turns.sort(key=lambda item: item[:2])
    return tuple(clip for _, _, clip in turns[:most])


@dataclass(frozen=True)
class ShownClip:
    """A clip shown in the report.

    Attributes:
        clip: the clip and its prediction.
        path: relative to the folder of the list.
        overlay: its motion; None if it could not be drawn.
        trouble: the reason why not.
    """

    clip: ChosenClip
    path: str
    overlay: Overlay | None
    trouble: str = ""


@dataclass(frozen=True)
class Report:
    """The content of a page.

    Attributes:
        run: the record of the run.
        measurement: the test; None if there was none.
        parameters: number of parameters of the network; None if it could not be read.
        best: the most confident correct predictions.
        worst: the most confident incorrect predictions.
        gaps: sentences on missing parts.
        machine: machine that the test ran on.
        written: time of writing.
    """

    run: RunRecord
    measurement: Measurement | None
    parameters: int | None
    best: tuple[ShownClip, ...]
    worst: tuple[ShownClip, ...]
    gaps: tuple[str, ...]
    machine: Machine
    written: datetime


def gather(
    run: RunRecord,
    recogniser: Recogniser | None = None,
    measurement: Measurement | None = None,
    *,
    clips: int = 4,
    gaps: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Gather the report of a run.

    Args:
        run: the record of the run.
        recogniser: its network; None if it has none.
        measurement: the test of the network; None if it was not tested.
        clips: maximum number of clips to show, for correct and for incorrect predictions each.
        gaps: sentences on missing parts, besides those of the run's folder.
        progress: called with (clips drawn, clips to draw).
    """
    best: tuple[ShownClip, ...] = ()
    worst: tuple[ShownClip, ...] = ()
    if recogniser is not None and measurement is not None:
        correct, incorrect = choose_clips(measurement, clips)
        shown: list[ShownClip] = []
        for clip in (*correct, *incorrect):
            shown.append(_show(recogniser, measurement, clip))
            if progress is not None:
                progress(len(shown), len(correct) + len(incorrect))
        best, worst = tuple(shown[: len(correct)]), tuple(shown[len(correct) :])
    return Report(
        run=run,
        measurement=measurement,
        parameters=None if recogniser is None else sum(value.numel() for value in recogniser.model.parameters()),
        best=best,
        worst=worst,
        gaps=(*run.gaps, *gaps),
        machine=describe_machine(),
        written=datetime.now(timezone.utc),
    )


def _show(recogniser: Recogniser, measurement: Measurement, clip: ChosenClip) -> ShownClip:
    path = relative_path(clip.entry.path, measurement.clips.root)
    try:
        overlay = draw_overlay(recogniser.model, measurement.test.preprocessing, clip.entry)
    except (VideoError, DataError, UnknownNameError) as error:
        return ShownClip(clip, path, None, str(error))
    return ShownClip(clip, path, overlay)
