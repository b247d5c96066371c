"""Test a network on labelled clips, with or without the diagnosis: every video is read once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from emim.data.manifest import ClipList
from emim.evaluation.diagnosis import Diagnosis
from emim.evaluation.diagnosis.ablations import AS_IS, ablations_for
from emim.evaluation.diagnosis.diagnose import diagnosis_from
from emim.evaluation.outputs import ClipOutputs, score_ablations
from emim.evaluation.testing import TestResult, summarise
from emim.inference.recogniser import Recogniser
from emim.inference.scoring import ScoringOptions

__all__ = ["Measurement", "measure"]

_SEED = 0


@dataclass(frozen=True)
class Measurement:
    """Results of a network on labelled clips.

    Attributes:
        clips: the list, including the clips that could not be read.
        outputs: scores of every unchanged clip.
        test: accuracies and confusion.
        diagnosis: accuracy with motion removed, if that was asked for.
        top5_hits: clips whose label is among the five best classes.
        seconds: duration of the test.
        device: device of the network.
    """

    clips: ClipList
    outputs: ClipOutputs
    test: TestResult
    diagnosis: Diagnosis | None
    top5_hits: int
    seconds: float
    device: str


def measure(
    recogniser: Recogniser,
    clip_list: ClipList,
    options: ScoringOptions | None = None,
    *,
    diagnosis: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Measurement:
    """Test a network, and diagnose it in the same pass over the videos.

    Args:
        recogniser: the network, its device and precision.
        clip_list: labelled clips, with the classes of the network.
        options: see `emim.inference.scoring.ScoringOptions`.
        diagnosis: also test with motion removed from clips and network, about six times the computation.
        progress: called with clips done and in all.

    Errors: see `emim.evaluation.outputs.score_ablations`.
    """
    options = options or ScoringOptions()
    ablations = ablations_for(recogniser.model, _SEED)
    if not diagnosis:
        ablations = {AS_IS: ablations[AS_IS]}
    started = time.monotonic()
    outputs = score_ablations(recogniser, clip_list, ablations, options, progress=progress)
    assert outputs is not None  # this process is the first one
    plain = outputs[AS_IS]
    diagnosed = diagnosis_from(outputs, recogniser, clip_list, options, seed=_SEED) if diagnosis else None
    test = summarise(
        plain.score_SK,
        plain.label_S,
        clip_list.classes,
        preprocessing=options.preprocessing or recogniser.preprocessing,
        precision=recogniser.precision,
        missing=plain.missing,
    )
    return Measurement(
        clips=clip_list,
        outputs=plain,
        test=test,
        diagnosis=diagnosed,
        top5_hits=round(test.top5 * test.clips),
        seconds=time.monotonic() - started,
        device=str(recogniser.device),
    )
