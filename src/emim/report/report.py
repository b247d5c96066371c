"""Put together what a report says."""

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


@dataclass(frozen=True)
class ChosenClip:
    """A clip and what was said of it.

    Attributes:
        entry: the clip.
        label: its class.
        named: the best class.
        score: of the best class.
        label_score: of its class.
    """

    entry: ClipEntry
    label: str
    named: str
    score: float
    label_score: float

    @property
    def right(self) -> bool:
        """Whether it was named rightly."""
        return self.label == self.named


def choose_clips(measurement: Measurement, most: int) -> tuple[tuple[ChosenClip, ...], tuple[ChosenClip, ...]]:
    """The `most` clips named most confidently rightly, and as many named most confidently wrongly.

    One clip of each class comes first, so that they do not all look alike.
    """
    outputs, classes = measurement.outputs, measurement.clips.classes
    score_S, named_S = outputs.score_SK.max(1)
    label_score_S = outputs.score_SK.gather(1, outputs.label_S[:, None])[:, 0]
    chosen = [
        ChosenClip(measurement.clips.entries[at], classes[label], classes[named], score, label_score)
        for at, label, named, score, label_score in zip(
            outputs.index,
            outputs.label_S.tolist(),
            named_S.tolist(),
            score_S.tolist(),
            label_score_S.tolist(),
            strict=True,
        )
    ]
    chosen.sort(key=lambda clip: -clip.score)
    rightly = [clip for clip in chosen if clip.right]
    wrongly = [clip for clip in chosen if not clip.right]
    return _spread(rightly, most), _spread(wrongly, most)


def _spread(clips: list[ChosenClip], most: int) -> tuple[ChosenClip, ...]:
    """The first `most` clips, of which no class has a second one before every other has its first."""
    seen: dict[str, int] = {}
    turns = []
    for order, clip in enumerate(clips):
        turn = seen[clip.label] = seen.get(clip.label, -1) + 1
        turns.append((turn, order, clip))
    turns.sort(key=lambda item: item[:2])
    return tuple(clip for _, _, clip in turns[:most])


@dataclass(frozen=True)
class ShownClip:
    """A clip of the report.

    Attributes:
        clip: what was said of it.
        path: from the list's folder.
        overlay: its motion; None where it could not be drawn.
        trouble: why not.
    """

    clip: ChosenClip
    path: str
    overlay: Overlay | None
    trouble: str = ""


@dataclass(frozen=True)
class Report:
    """All that a page says.

    Attributes:
        run: what the run has written down.
        measurement: the test; None where there was none.
        parameters: of the network; None where it could not be read.
        best: clips named rightly, most confidently.
        worst: clips named wrongly, most confidently.
        gaps: sentences on what is missing.
        machine: where the test ran.
        written: when.
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
    """The report of a run.

    Args:
        run: what its folder holds.
        recogniser: its network; None where it has none.
        measurement: what the network did on labelled clips; None where it was not tested.
        clips: how many clips, at most, to show of those named rightly and of those named wrongly.
        gaps: sentences on what is missing besides what the run's folder lacks.
        progress: called with clips drawn and to draw.
    """
    best: tuple[ShownClip, ...] = ()
    worst: tuple[ShownClip, ...] = ()
    if recogniser is not None and measurement is not None:
        rightly, wrongly = choose_clips(measurement, clips)
        shown: list[ShownClip] = []
        for clip in (*rightly, *wrongly):
            shown.append(_show(recogniser, measurement, clip))
            if progress is not None:
                progress(len(shown), len(rightly) + len(wrongly))
        best, worst = tuple(shown[: len(rightly)]), tuple(shown[len(rightly) :])
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
