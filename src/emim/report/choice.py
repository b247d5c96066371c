"""The clips that a report shows: those that were named most confidently, rightly and wrongly.

Shape suffixes: N clips that could be read, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

from emim.data.manifest import ClipEntry
from emim.report.measurement import Measurement


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
    score_N, named_N = outputs.score_NK.max(1)
    label_score_N = outputs.score_NK.gather(1, outputs.label_N[:, None])[:, 0]
    chosen = [
        ChosenClip(measurement.clips.entries[at], classes[label], classes[named], score, label_score)
        for at, label, named, score, label_score in zip(
            outputs.index,
            outputs.label_N.tolist(),
            named_N.tolist(),
            score_N.tolist(),
            label_score_N.tolist(),
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
